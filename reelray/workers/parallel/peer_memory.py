"""Memory that GPUs of one machine share over NVLink: rooms of every rank that its peers write into.

A put into a room and a meeting on the device are an exchange that costs no packing, no collective and no unpacking, and
a few microseconds instead of NCCL's seventy. Built on torch's symmetric memory.
"""

import logging
import platform
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch import distributed as dist

from reelray.kernels.to_peers.api import Rooms, meet
from reelray.proto.errors import EngineError

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
        RuntimeError: The GPUs cannot share memory.
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        self._group = group
        self._device = device
        self._index = group.rank()
        self._rooms: dict[str, tuple[Tensor, Any]] = {}
        self._kept: list[Any] = []  # recordings write to rooms that have become too small
        self._views: dict[tuple[str, torch.dtype], Rooms] = {}
        pads = self._allocate("pads", max(64, 4 * group.size()))
        self._pads = torch.tensor([pad.data_ptr() for pad in pads], dtype=torch.int64, device=device)
        self._turn = torch.zeros(1, dtype=torch.int32, device=device)
        self._stop = torch.zeros(1, dtype=torch.int32, device=device)
        # A kernel that is used for the first time may wait for those that run, and they for it: so the word is copied.
        self._word = torch.ones(1, dtype=torch.int32).pin_memory()
        self._side: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(device)

    def room(self, name: str, elements: int, dtype: torch.dtype) -> Rooms:
        """See `PeerMemory`.

        Raises:
            EngineError: It would have to grow while a CUDA graph is recorded.
        """
        found = self._views.get((name, dtype))
        if found is not None and found.tensors[0].numel() >= elements:
            return found
        wanted = elements * dtype.itemsize
        if name not in self._rooms or self._rooms[name][0].numel() < wanted:
            if torch.cuda.is_current_stream_capturing():
                raise EngineError(f"room {name!r} cannot grow to {wanted} bytes while a graph is recorded")
            self._views = {key: rooms for key, rooms in self._views.items() if key[0] != name}
            self._allocate(name, wanted)
        own, handle = self._rooms[name]
        shape = (own.numel() // dtype.itemsize,)
        tensors = tuple(handle.get_buffer(rank, shape, dtype) for rank in range(self._group.size()))
        pointers = torch.tensor([t.data_ptr() for t in tensors], dtype=torch.int64, device=self._device)
        self._views[name, dtype] = Rooms(tensors=tensors, pointers=pointers)
        return self._views[name, dtype]

    def meet(self) -> None:
        """See `PeerMemory`; the host goes on, the current stream waits."""
        meet(self._pads, self._turn, self._stop, self._index)

    def stop(self) -> None:
        """See `PeerMemory`."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._side):
            self._stop.copy_(self._word, non_blocking=True)

    def _allocate(self, name: str, count: int) -> list[Tensor]:
        """Memory of so many bytes on every rank, zeroed; all ranks call it together."""
        from torch.distributed import _symmetric_memory as symmetric  # noqa: PLC0415  (no public name yet, and CUDA alone has it)

        own = symmetric.empty(count, dtype=torch.uint8, device=self._device)
        own.zero_()
        handle = symmetric.rendezvous(own, self._group)
        if name in self._rooms:
            self._kept.append(self._rooms[name])
        self._rooms[name] = own, handle
        return [handle.get_buffer(rank, (count,), torch.uint8) for rank in range(self._group.size())]


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


def _are_neighbours(group: dist.ProcessGroup, device: torch.device) -> bool:
    """Whether all ranks are on different GPUs of one machine that reach each other."""
    here = (platform.node(), BOOT_ID.read_text() if BOOT_ID.is_file() else "")
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    seen: list[Any] = [None] * group.size()
    dist.all_gather_object(seen, (here, uuid, device.index), group=group)
    if len({where for where, _, _ in seen}) > 1 or len({found for _, found, _ in seen}) < len(seen):
        return False
    others = [index for _, found, index in seen if found != uuid]
    # Where each process sees its own GPU alone, torch cannot say; sharing is then tried.
    visible = torch.cuda.device_count() > max(index for _, _, index in seen) and len(set(others)) == len(others)
    return not visible or all(torch.cuda.can_device_access_peer(device, index) for index in others)
