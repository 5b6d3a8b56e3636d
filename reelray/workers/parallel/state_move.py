"""Tensors on their way from ranks that hold them to ranks that will: nobody is sent what it has.

Every rank that holds or will hold a tensor calls the same methods in the same order; messages go between pairs, so that
others are not kept waiting.
"""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from reelray.workers.parallel.mesh import AxisGroup
from reelray.workers.parallel.vae_rows import layout_of

ROWS = 3
"""Dim of the picture's rows in what is cut by rows: B, C, frames, H, W."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """What a rank must know to take a tensor that it has never seen.

    Args:
        shape: Of the whole tensor, all rows of the picture included.
        dtype: Its dtype.
        channels_last: How it lies in memory.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool = False

    @classmethod
    def of(cls, tensor: Tensor, rows: int | None = None) -> "TensorSpec":
        """Describe a tensor.

        Args:
            tensor: All of it, or some rows.
            rows: Rows of the whole, where it is cut.
        """
        shape = list(tensor.shape)
        if rows is not None:
            shape[ROWS] = rows
        last = tensor.ndim == 5 and layout_of(tensor) is torch.channels_last_3d
        return cls(shape=tuple(shape), dtype=tensor.dtype, channels_last=last)

    @property
    def memory_format(self) -> torch.memory_format:
        """See `channels_last`."""
        return torch.channels_last_3d if self.channels_last else torch.contiguous_format

    def rows(self, count: int, device: torch.device) -> Tensor:
        """Room for some rows of the picture."""
        shape = (*self.shape[:ROWS], count, *self.shape[ROWS + 1 :])
        return torch.empty(shape, dtype=self.dtype, device=device, memory_format=self.memory_format)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowWay:
    """Where the rows of a tensor are and where they are to be, by rank of the gang.

    Args:
        owned: Rows that a rank gives; together they are all rows, each once or all on every rank.
        held: Rows that a rank's tensor has: its own and margins.
        wanted: Rows that a rank's tensor will have.
    """

    owned: Mapping[int, range]
    held: Mapping[int, range]
    wanted: Mapping[int, range]

    def givers(self, rank: int) -> list[tuple[int, range]]:
        """Who gives a rank what it wants, itself first."""
        missing, found = [self.wanted[rank]], []
        for giver in sorted(self.owned, key=lambda other: other != rank):
            left = []
            for rows in missing:
                shared = _overlap(rows, self.owned[giver])
                found += [(giver, shared)] if shared else []
                left += _without(rows, shared)
            missing = left
        assert not missing, f"nobody owns {missing}"
        return found


class StateMover:
    """Moves the tensors of requests between ranks of a gang.

    Args:
        group: All ranks of the gang that denoise, in order.
        device: Where the tensors of this rank lie.
    """

    def __init__(self, group: AxisGroup, device: torch.device) -> None:
        self._group = group
        self._device = device
        self.received_bytes = 0

    @property
    def rank(self) -> int:
        """This rank."""
        return self._group.index

    def tell(self, value: Any, teller: int, hearers: Sequence[int]) -> Any:
        """Send something small that can be pickled; returns it on the teller and on every hearer."""
        if self.rank == teller:
            data = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8).to(self._device)
            size = torch.tensor([data.numel()], device=self._device)
            self._swap([(hearer, size) for hearer in hearers], [])
            self._swap([(hearer, data) for hearer in hearers], [])
            return value
        size = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._swap([], [(teller, size)])
        data = torch.empty(int(size), dtype=torch.uint8, device=self._device)
        self._swap([], [(teller, data)])
        return pickle.loads(data.cpu().numpy().tobytes())  # noqa: S301  from a rank of this gang

    def move_whole(
        self, tensor: Tensor | None, spec: TensorSpec, givers: Sequence[int], takers: Sequence[int]
    ) -> Tensor:
        """Bring a tensor that lies whole on every giver to every taker.

        Args:
            tensor: On a giver, the tensor.
            spec: The tensor.
            givers: Ranks that have it; the first sends.
            takers: Ranks that will have it.

        Returns:
            The tensor, on givers and takers alike.
        """
        if tensor is None:
            room = torch.empty(spec.shape, dtype=spec.dtype, device=self._device)
            self._swap([], [(givers[0], room)])
            return room.contiguous(memory_format=spec.memory_format)
        new = [taker for taker in takers if taker not in givers]
        if self.rank == givers[0] and new:
            sent = tensor.to(self._device).contiguous()
            self._swap([(taker, sent) for taker in new], [])
        return tensor

    def move_rows(self, tensor: Tensor | None, spec: TensorSpec, way: RowWay) -> Tensor | None:
        """Bring rows to the ranks that want them.

        Args:
            tensor: The rows that this rank holds, if it does.
            spec: The whole tensor.
            way: Where the rows are and where they are to be.

        Returns:
            The rows that this rank wants; None if it wants none.
        """
        wanted, held = way.wanted.get(self.rank), way.held.get(self.rank)
        leaving = []
        for taker in way.wanted if tensor is not None and held is not None else ():
            for giver, rows in way.givers(taker):
                if giver == self.rank != taker:
                    assert tensor is not None
                    assert held is not None
                    leaving.append((taker, _narrow(tensor, rows, held).contiguous()))
        if wanted is None:
            self._swap(leaving, [])
            return None
        found = spec.rows(len(wanted), self._device)
        arriving = [(giver, rows) for giver, rows in way.givers(self.rank) if giver != self.rank]
        rooms = [found.new_empty(_narrow(found, rows, wanted).shape) for _, rows in arriving]
        self._swap(leaving, [(giver, room) for (giver, _), room in zip(arriving, rooms, strict=True)])
        for (_, rows), room in zip(arriving, rooms, strict=True):
            _narrow(found, rows, wanted).copy_(room)
        for giver, rows in way.givers(self.rank):
            if giver == self.rank:
                assert tensor is not None
                assert held is not None
                _narrow(found, rows, wanted).copy_(_narrow(tensor, rows, held))
        return found

    def _swap(self, leaving: Sequence[tuple[int, Tensor]], arriving: Sequence[tuple[int, Tensor]]) -> None:
        """Send and receive dense tensors, all at once; messages between two ranks keep their order."""
        group = self._group.process_group
        moves = [dist.P2POp(dist.isend, part, group=group, group_peer=peer) for peer, part in leaving]
        moves += [dist.P2POp(dist.irecv, part, group=group, group_peer=peer) for peer, part in arriving]
        for work in dist.batch_isend_irecv(moves) if moves else ():
            work.wait()
        self.received_bytes += sum(part.nbytes for _, part in arriving)


def _overlap(rows: range, other: range) -> range:
    return range(max(rows.start, other.start), min(rows.stop, other.stop))


def _without(rows: range, taken: range) -> list[range]:
    if not taken:
        return [rows]
    return [part for part in (range(rows.start, taken.start), range(taken.stop, rows.stop)) if part]


def _narrow(tensor: Tensor, rows: range, held: range) -> Tensor:
    """Rows of the picture out of a tensor that has the rows `held`."""
    return tensor.narrow(ROWS, rows.start - held.start, len(rows))
