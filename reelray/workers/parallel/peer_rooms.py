"""Rooms in the device memory of every rank of a group, open to all of them: made, grown and given back together."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from reelray.kernels.to_peers.api import Rooms
from reelray.workers.parallel.cuda_ipc import SharedBytes, close_bytes, open_bytes


class PeerRooms:
    """Rooms by their names; given back when nobody holds this object.

    Args:
        group: The ranks.
        device: Of this rank.
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        self._group = group
        self._device = device
        self._kept: list[_Piece] = []
        self._rooms: dict[str, tuple[Tensor, Tensor]] = {}
        self._views: dict[tuple[str, torch.dtype], Rooms] = {}
        weakref.finalize(self, _close_all, self._kept).atexit = False

    def room(self, name: str, elements: int, dtype: torch.dtype) -> Rooms:
        """Room of this name on every rank, zeros at first; all ranks ask for the same, in the same order.

        One that has become too small is kept: recordings write to it.

        Args:
            name: Tells rooms apart that are in use at the same time.
            elements: At least as many; the same on all ranks.
            dtype: Of the elements.

        Raises:
            torch.OutOfMemoryError: A rank has no memory for it, so on all ranks; or it would have to grow while a CUDA
                graph is recorded, which then runs unrecorded.
            RuntimeError: A rank cannot share it; so on all ranks.
        """
        found = self._views.get((name, dtype))
        if found is not None and found.mine.numel() >= elements:
            return found
        wanted = elements * dtype.itemsize
        if name not in self._rooms or self._rooms[name][0].numel() < wanted:
            if torch.cuda.is_current_stream_capturing():
                raise torch.OutOfMemoryError(f"room {name!r} cannot grow to {wanted} bytes while a graph is recorded")
            self._rooms[name] = self._share(wanted)
            self._views = {key: rooms for key, rooms in self._views.items() if key[0] != name}
        mine, pointers = self._rooms[name]
        self._views[name, dtype] = Rooms(mine=mine.view(dtype), pointers=pointers)
        return self._views[name, dtype]

    def _share(self, count: int) -> tuple[Tensor, Tensor]:
        """Zeroed memory of so many bytes on every rank, all of which call it: this rank's, and where each begins."""
        piece = _Piece(device=self._device)
        try:
            handles = self._agree(partial(piece.offer, count))
            self._agree(partial(piece.open, handles, self._group.rank()))
        except BaseException:
            piece.close()
            raise
        self._kept.append(piece)
        assert piece.own is not None
        return piece.own.tensor, torch.tensor(piece.pointers, dtype=torch.int64, device=self._device)

    def _agree(self, act: Callable[[], Any]) -> list[Any]:
        """Do something on every rank; what each got, or on all of them the error of one."""
        try:
            own = act()
        except RuntimeError as error:  # out of memory is one
            kind = torch.OutOfMemoryError if isinstance(error, torch.OutOfMemoryError) else RuntimeError
            own = kind(str(error))
        heard: list[Any] = [None] * self._group.size()
        dist.all_gather_object(heard, own, group=self._group)
        failed = next((said for said in heard if isinstance(said, Exception)), None)
        if failed is not None:
            raise failed
        return heard


@dataclass(kw_only=True, slots=True)
class _Piece:
    """Memory of every rank, as far as this one has got with it.

    Args:
        device: Of this rank.
        own: This rank's.
        theirs: Where that of the others is open here.
        pointers: Where that of each rank begins.
    """

    device: torch.device
    own: SharedBytes | None = None
    theirs: list[int] = field(default_factory=list)
    pointers: list[int] = field(default_factory=list)

    def offer(self, count: int) -> bytes:
        """Make this rank's zeroed memory; returns what the others open it by."""
        self.own = SharedBytes(count, self.device)
        self.own.tensor.zero_()
        torch.cuda.synchronize(self.device)
        return self.own.export()

    def open(self, handles: Sequence[bytes], index: int) -> None:
        """Open that of the others."""
        assert self.own is not None
        for rank, handle in enumerate(handles):
            if rank != index:
                self.theirs.append(open_bytes(handle, self.device))
            self.pointers.append(self.own.pointer if rank == index else self.theirs[-1])

    def close(self) -> None:
        """Close and free what there is."""
        for pointer in self.theirs:
            close_bytes(pointer, self.device)
        if self.own is not None:
            self.own.free()


def _close_all(pieces: list[_Piece]) -> None:
    for piece in pieces:
        piece.close()
