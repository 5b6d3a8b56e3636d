"""Brings the chunk in work to ranks that only decode, so that they can help to denoise it."""

from reelray.workers.engine.held_request import HeldRequest
from reelray.workers.models.api import VideoModel
from reelray.workers.parallel.mesh import Mesh
from reelray.workers.parallel.state_move import StateMover, TensorSpec

GIVER = 0
"""Latents and solver history are whole on every rank that denoises; the first one gives them."""


class ChunkSharer:
    """The first rank of a gang and all that only decode must ask for the same requests, in the same order.

    Args:
        mover: Between all ranks of the gang.
        takers: Ranks that only decode.
    """

    def __init__(self, mover: StateMover, takers: tuple[int, ...]) -> None:
        self._mover = mover
        self._takers = list(takers)

    def share(self, held: HeldRequest) -> None:
        """Give the chunks in work, or take them; on ranks that are neither giver nor taker nothing happens."""
        rank = self._mover.rank
        if rank != GIVER and rank not in self._takers:
            return
        tensors = held.flight.show() if rank == GIVER else {}
        told = {name: TensorSpec.of(tensor) for name, tensor in tensors.items()} if rank == GIVER else None
        numbers, specs = self._mover.tell((held.flight.numbers, told), GIVER, self._takers)
        moved = {
            name: self._mover.move_whole(tensors.get(name), spec, [GIVER], self._takers) for name, spec in specs.items()
        }
        if rank != GIVER:
            held.take_flight(numbers, moved)


def make_sharer(model: VideoModel, mesh: Mesh) -> ChunkSharer | None:
    """What brings chunks to the ranks that only decode; None where these are never lent."""
    group = mesh.lent
    return None if group is None else ChunkSharer(StateMover(group, model.device), mesh.spare)
