"""Brings the state of a request to the ranks of another lane, between two steps.

Latents and solver history are whole on every rank of a lane: only ranks that were not in the old one are sent them. The
decoder's state lies by rows where ranks share the picture: each row goes from its owner to the ranks that want it,
device to device, one slot at a time. Text is not sent: every rank has encoded it at admission, which costs no time,
because a step lasts as long as its slowest lane.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from reelray.proto.layout import Place
from reelray.proto.step_plan import Move
from reelray.workers.engine.held_request import HeldRequest, HeldState
from reelray.workers.engine.memory_move import MemoryMover
from reelray.workers.engine.stream_memory import StreamMemory
from reelray.workers.models.api import VideoModel
from reelray.workers.parallel.mesh import Mesh
from reelray.workers.parallel.row_sharing import COLLECTOR, RowSharing
from reelray.workers.parallel.row_split import RowSplit
from reelray.workers.parallel.state_move import ROWS, RowWay, StateMover, TensorSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class _Inventory:
    """What a rank must know before it can take over a request.

    Args:
        facts: See `HeldState`.
        splits: See `HeldState`.
        denoise: Tensors on every rank of the old lane.
        decode: Tensors on every rank of it that decodes.
        slots: The decoder's slots, whole.
    """

    facts: dict[str, Any]
    splits: bool
    denoise: dict[str, TensorSpec]
    decode: dict[str, TensorSpec]
    slots: tuple[TensorSpec, ...]


class Regrouper:
    """Carries out the moves of plans on this rank; all ranks that denoise must be asked for each of them, in order.

    Args:
        mover: Between all of them.
        shares: Whether the ranks of a lane share pictures; otherwise the first one of each decodes.
        memories: Moves what streams remember; to be asked after the rest of a request has moved.
    """

    def __init__(self, mover: StateMover, *, shares: bool, memories: MemoryMover) -> None:
        self._mover = mover
        self.memories = memories
        self._shares = shares

    @property
    def moved_bytes(self) -> int:
        """What this rank has received since its start."""
        return self._mover.received_bytes

    def carry_out(self, move: Move, held: HeldRequest) -> StreamMemory | None:
        """Give what this rank holds of the request and take what it is to hold of it.

        Args:
            move: From where to where.
            held: The request on this rank, whose state is replaced.

        Returns:
            What it has remembered here, for `memories`.
        """
        rank = self._mover.rank
        takes = rank in move.target.ranks
        if rank not in move.source.ranks and not takes:
            return None
        leaving = held.forwards.memory
        if leaving is not None:
            leaving.hold()
        state = held.give()
        inventory = self._tell(move, state, held.latent_rows)
        denoise = self._move_whole(inventory.denoise, state.denoise, list(move.source.ranks), list(move.target.ranks))
        old, new = self._decoders(move.source), self._decoders(move.target)
        decode = self._move_whole(inventory.decode, state.decode, old, new)
        slots = self._move_slots(move, inventory, state.slots, held.latent_rows)
        if takes:
            decodes = rank in new
            facts = inventory.facts if decodes else inventory.facts | {"decoder": None}
            held.take(
                HeldState(
                    facts=facts,
                    denoise=denoise,
                    decode=decode if decodes else {},
                    slots=slots,
                    splits=inventory.splits,
                )
            )
        return leaving

    def _tell(self, move: Move, state: HeldState, latent_rows: int) -> _Inventory:
        """What there is, on every rank that gives or takes; those that decode know, the others are told."""
        rank, teller, knowing = self._mover.rank, move.source.ranks[COLLECTOR], self._decoders(move.source)
        found = None
        if rank in knowing:
            split = self._split(move.source, latent_rows) if state.splits else None
            found = _take_stock(state, split, rank - move.source.ranks[0], latent_rows)
            if rank != teller:
                return found
        hearers = sorted({*move.source.ranks, *move.target.ranks} - {*knowing})
        inventory: _Inventory = self._mover.tell(found, teller, hearers)
        return inventory

    def _move_whole(
        self, specs: dict[str, TensorSpec], tensors: dict[str, Tensor], givers: list[int], takers: list[int]
    ) -> dict[str, Tensor]:
        if self._mover.rank not in {*givers, *takers}:
            return {}
        return {name: self._mover.move_whole(tensors.get(name), spec, givers, takers) for name, spec in specs.items()}

    def _move_slots(self, move: Move, inventory: _Inventory, slots: list[Tensor], latent_rows: int) -> list[Tensor]:
        old, new = self._decoders(move.source), self._decoders(move.target)
        rank, found = self._mover.rank, []
        if rank not in {*old, *new}:
            return []
        before, after = (
            self._split(place, latent_rows) if inventory.splits else None for place in (move.source, move.target)
        )
        for spec in inventory.slots:
            slot = slots.pop(0) if slots else None  # and with it the memory of what is through
            if before is None and after is None:
                moved: Tensor | None = self._mover.move_whole(slot, spec, old, new)
            else:
                moved = self._mover.move_rows(slot, spec, _find_way(spec, latent_rows, (old, before), (new, after)))
            if rank in new and moved is not None:
                found.append(moved)
        return found

    def _decoders(self, place: Place) -> list[int]:
        return list(place.ranks) if self._shares else [place.ranks[COLLECTOR]]

    def _split(self, place: Place, latent_rows: int) -> RowSplit | None:
        """How the rows of a picture are dealt out on a lane; None where every rank that decodes has all of them."""
        ranks = place.layout.lane
        return RowSplit.make(latent_rows, ranks) if self._shares and 1 < ranks <= latent_rows else None


def make_regrouper(model: VideoModel, mesh: Mesh) -> Regrouper | None:
    """What carries out moves on this rank; None where there is nothing to move, or others decode.

    Args:
        model: Asked whether ranks can share its pictures.
        mesh: Has the group of all ranks.
    """
    group = mesh.everyone
    if group is None or mesh.has_spare or group.size == 1:
        return None
    shares = model.use_picture_sharing(RowSharing(group, scale=model.facts.spatial_stride))
    mover = StateMover(group, model.device)
    return Regrouper(mover, shares=shares, memories=MemoryMover(mover=mover, model=model))


def _take_stock(state: HeldState, split: RowSplit | None, index: int, latent_rows: int) -> _Inventory:
    """List what a rank that decodes holds; all that do list the same.

    Args:
        state: What it holds.
        split: Who holds which rows of the slots.
        index: Place of this rank in its lane.
        latent_rows: Height of the picture in latents.
    """

    def whole(slot: Tensor) -> TensorSpec:
        if split is None:
            return TensorSpec.of(slot)
        own = slot.shape[ROWS] - split.above(index) - split.below(index)
        return TensorSpec.of(slot, rows=own // split.counts[index] * latent_rows)

    return _Inventory(
        facts=state.facts,
        splits=state.splits,
        denoise={name: TensorSpec.of(tensor) for name, tensor in state.denoise.items()},
        decode={name: TensorSpec.of(tensor) for name, tensor in state.decode.items()},
        slots=tuple(map(whole, state.slots)),
    )


def _find_way(
    spec: TensorSpec,
    latent_rows: int,
    source: tuple[list[int], RowSplit | None],
    target: tuple[list[int], RowSplit | None],
) -> RowWay:
    rows = spec.shape[ROWS]
    scale, (old, before), (new, after) = rows // latent_rows, source, target
    everything = range(rows)
    return RowWay(
        owned={r: everything if before is None else before.own(i, scale) for i, r in enumerate(old)},
        held={r: everything if before is None else before.held(i, scale) for i, r in enumerate(old)},
        wanted={r: everything if after is None else after.held(i, scale) for i, r in enumerate(new)},
    )
