"""Memory that GPUs of one machine share over NVLink: rooms of every rank that its peers write into.

A put into a room and a meeting on the device are an exchange that costs no packing, no collective and no unpacking, and
a few microseconds instead of NCCL's seventy.
"""

import logging
import platform
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch import distributed as dist

from reelray.kernels.to_peers.api import Rooms, meet
from reelray.proto.errors import EngineError
from reelray.workers.parallel.cuda_ipc import SharedBytes, close_bytes, open_bytes

_LOG = logging.getLogger(__name__)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class PeerMemory(Protocol):
    """What the ranks of a group share."""

    def room(self, name: str, elements: int, dtype: torch.dtype) -> Rooms:
        """Room of this name on every rank; all ranks ask for the same, in the same order.

        It stays where it is: what was recorded with it may be run again.

        Args:
            name: Tells rooms apart that are in use at the same time.
            elements: At least as many; the same on all ranks.
            dtype: Of the elements.
        """
        ...

    def meet(self) -> None:
        """Wait until all ranks are here: what they put before is there, and what this rank has read may be put to."""
        ...

    def stop(self) -> None:
        """Let nobody here wait for a peer any more; any thread may call it. The memory is then of no use."""
        ...


class NvlinkMemory:
    """Implements `PeerMemory` on CUDA. All ranks of the group make it together.

    Args:
        group: The ranks.
        device: Of this rank.

    Raises:
        RuntimeError: The GPUs cannot share memory; so on all ranks.
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        self._group = group
        self._device = device
        self._index = group.rank()
        self._opened = _Opened(device)
        self._rooms: dict[str, tuple[Tensor, Tensor]] = {}
        self._views: dict[tuple[str, torch.dtype], Rooms] = {}
        _, self._pads = self._allocate("pads", 4 * group.size())
        self._turn = torch.zeros(1, dtype=torch.int32, device=device)
        self._stop = torch.zeros(1, dtype=torch.int32, device=device)
        # A kernel that is used for the first time may wait for those that run, and they for it: so the word is copied.
        self._word = torch.ones(1, dtype=torch.int32).pin_memory()
        self._side: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(device)
        weakref.finalize(self, self._opened.close).atexit = False

    def room(self, name: str, elements: int, dtype: torch.dtype) -> Rooms:
        """See `PeerMemory`. A room that has become too small is kept: recordings write to it.

        Raises:
            EngineError: It would have to grow while a CUDA graph is recorded.
            torch.OutOfMemoryError: A rank has no memory for it; so on all ranks.
        """
        found = self._views.get((name, dtype))
        if found is not None and found.mine.numel() >= elements:
            return found
        wanted = elements * dtype.itemsize
        if name not in self._rooms or self._rooms[name][0].numel() < wanted:
            if torch.cuda.is_current_stream_capturing():
                raise EngineError(f"room {name!r} cannot grow to {wanted} bytes while a graph is recorded")
            self._views = {key: rooms for key, rooms in self._views.items() if key[0] != name}
            self._allocate(name, wanted)
        mine, pointers = self._rooms[name]
        self._views[name, dtype] = Rooms(mine=mine.view(dtype), pointers=pointers)
        return self._views[name, dtype]

    def meet(self) -> None:
        """See `PeerMemory`; the host goes on, the current stream waits."""
        meet(self._pads, self._turn, self._stop, self._index)

    def stop(self) -> None:
        """See `PeerMemory`."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._side):
            self._stop.copy_(self._word, non_blocking=True)

    def _allocate(self, name: str, count: int) -> tuple[Tensor, Tensor]:
        """Zeroed memory of so many bytes on every rank, all of which call it: this rank's, and where each begins."""
        own, handle = self._offer(count)
        handles: list[Any] = [None] * self._group.size()
        dist.all_gather_object(handles, handle, group=self._group)
        failed = next((said for said in handles if isinstance(said, Exception)), None)
        if failed is not None or own is None:
            raise failed or RuntimeError("a rank offered nothing")
        pointers = self._opened.add(own, [None if rank == self._index else h for rank, h in enumerate(handles)])
        placed = torch.tensor(pointers, dtype=torch.int64, device=self._device)
        self._rooms[name] = own.tensor, placed
        return self._rooms[name]

    def _offer(self, count: int) -> tuple[SharedBytes | None, bytes | Exception]:
        try:
            own = SharedBytes(count, self._device)
            own.tensor.zero_()
            torch.cuda.synchronize(self._device)
            return own, own.export()
        except RuntimeError as error:  # out of memory is one
            return None, type(error)(str(error))


class _Opened:
    """What is to be closed and freed when the memory is not used any more.

    Args:
        device: Of this rank.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._own: list[SharedBytes] = []
        self._theirs: list[int] = []

    def add(self, own: SharedBytes, handles: Sequence[bytes | None]) -> list[int]:
        """Open the peers' memory; returns where each begins, this rank's in the place of None."""
        self._own.append(own)
        found = []
        for handle in handles:
            if handle is None:
                found.append(own.pointer)
                continue
            found.append(open_bytes(handle, self._device))
            self._theirs.append(found[-1])
        return found

    def close(self) -> None:
        """Close and free everything."""
        for pointer in self._theirs:
            close_bytes(pointer, self._device)
        for own in self._own:
            own.free()


def open_peer_memory(group: dist.ProcessGroup, device: torch.device) -> PeerMemory | None:
    """Share memory among ranks that lie on GPUs of one machine; every rank of the group must call it.

    Returns:
        The memory, on all ranks or, where any cannot share it, on none.
    """
    if device.type != "cuda" or group.size() < 2:
        return None
    device = torch.device("cuda", torch.cuda.current_device())  # with its number, which the mesh may have left out
    if not _are_neighbours(group, device):
        return None
    memory: NvlinkMemory | None = None
    try:
        memory = NvlinkMemory(group, device)
    except RuntimeError as error:
        _LOG.warning("GPUs cannot share memory (%s); they exchange by NCCL, which is slower", error)
    vote = torch.tensor([int(memory is not None)], device=device)
    dist.all_reduce(vote, op=dist.ReduceOp.MIN, group=group)
    return memory if vote.item() else None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Neighbour:
    """A rank, as it describes itself.

    Args:
        machine: Where it runs.
        gpu: What it runs on.
        index: Number of that GPU in its process.
    """

    machine: tuple[str, str]
    gpu: str
    index: int


def _are_neighbours(group: dist.ProcessGroup, device: torch.device) -> bool:
    """Whether all ranks are on different GPUs of one machine that reach each other."""
    own = _Neighbour(
        machine=(platform.node(), BOOT_ID.read_text() if BOOT_ID.is_file() else ""),
        gpu=str(torch.cuda.get_device_properties(device).uuid),
        index=device.index,
    )
    seen: list[Any] = [None] * group.size()
    dist.all_gather_object(seen, own, group=group)
    if len({rank.machine for rank in seen}) > 1 or len({rank.gpu for rank in seen}) < len(seen):
        return False
    indices = {rank.index for rank in seen}
    if len(indices) < len(seen) or max(indices) >= torch.cuda.device_count():
        return True  # each process sees its own GPU alone, and torch cannot say; sharing is tried
    return all(torch.cuda.can_device_access_peer(device, index) for index in indices - {device.index})
