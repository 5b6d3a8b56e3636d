"""Brings what a stream remembers to the ranks of another lane: keys and values themselves, by heads.

Every rank of the old lane keeps some heads, and so does every rank of the new one, otherwise cut. Each head goes from a
rank that has it to those that want it, device to device, one layer at a time, so that no more than a layer is there
twice. The bits are those that were remembered. Pages in 8 bits belong to the heads they were made of; those, and a
stream that rests, are come by again by the forwards that made them. Shape suffixes: S tokens, N heads, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reelray.proto.errors import ReelrayError
from reelray.proto.layout import Place
from reelray.proto.step_plan import Move
from reelray.workers.engine.held_request import HeldRequest
from reelray.workers.engine.station import Station
from reelray.workers.engine.stream_memory import StreamMemory
from reelray.workers.models.api import VideoModel
from reelray.workers.parallel.state_move import RowWay, StateMover, TensorSpec
from reelray.workers.parallel.token_split import split_evenly

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryMover:
    """Carries out what moves of plans mean for memories, on this rank; all ranks that denoise must be asked, in order.

    Args:
        mover: Between all of them.
        model: Whose heads they are.
    """

    mover: StateMover
    model: VideoModel

    def carry_out(self, move: Move, held: HeldRequest, station: Station, leaving: StreamMemory | None) -> None:
        """Give what this rank remembers of a request, and remember what it is to remember of it.

        Args:
            move: From where to where.
            held: The request on this rank, all else of which has moved.
            station: Of the new lane, where this rank is one of it.
            leaving: What it remembered in the old lane; is closed.

        Raises:
            ResourceError: There is no room for it in the new lane.
        """
        try:
            if held.request.recipe.memory is None or not self._has_part(move):
                held.begin_memory(station)
            else:
                self._move(move, held, station, leaving)
        finally:
            if leaving is not None:
                leaving.close()

    def _has_part(self, move: Move) -> bool:
        return self.mover.rank in {*move.source.ranks, *move.target.ranks}

    def _move(self, move: Move, held: HeldRequest, station: Station, leaving: StreamMemory | None) -> None:
        givers, takers, rank = list(move.source.ranks), list(move.target.ranks), self.mover.rank
        everyone = sorted({*givers, *takers})
        outline = None if leaving is None else leaving.outline()
        outline = self.mover.tell(outline, givers[0], [other for other in everyone if other != givers[0]])
        if outline is None:
            held.begin_memory(station)
            return
        error: Exception | None = None
        if rank in takers:
            try:
                held.forwards.begin(station, repeats=False)
            except (ReelrayError, RuntimeError) as refused:
                error = refused
        # The takers agree among themselves on whether there is room; who only gives must hear of it.
        ready = self.mover.tell(error is None, takers[0], [other for other in everyone if other != takers[0]])
        if ready:
            found = held.forwards.memory if rank in takers else None
            self._move_heads(_find_way(move, self.model.heads), outline, leaving, found)
        if error is not None:
            raise error

    def _move_heads(
        self, way: RowWay, outline: Sequence[dict[str, Any]], leaving: StreamMemory | None, found: StreamMemory | None
    ) -> None:
        shape = self.model.key_shape(self.model.heads)
        if found is not None:
            found.adopt(outline)
        for number, memory in enumerate(outline):
            size = (1, 2, memory["tokens"], shape.heads, shape.width)
            for layer in range(shape.layers if memory["tokens"] else 0):
                given: Tensor | None = None if leaving is None else leaving.layer(number, layer)[None]
                taken = self.mover.move_rows(given, TensorSpec(shape=size, dtype=shape.dtype), way)
                if found is not None and taken is not None:
                    found.fill(number, layer, taken[0])


def _find_way(move: Move, heads: int) -> RowWay:
    """Which ranks have which heads, and which want them; heads take the place of rows, they lie in the same dim."""
    owned = _find_heads(move.source, heads)
    return RowWay(owned=owned, held=owned, wanted=_find_heads(move.target, heads))


def _find_heads(place: Place, heads: int) -> dict[int, range]:
    """Heads that each rank of a lane remembers; ranks are numbered with `ulysses` last."""
    shares = split_evenly(heads, place.layout.ulysses)
    return {rank: shares[index % len(shares)] for index, rank in enumerate(place.ranks)}
