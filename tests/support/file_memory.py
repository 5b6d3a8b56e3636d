"""Memory that CPU ranks share through files, as GPUs share theirs: all of the exchange but its kernels runs."""

import shutil
import tempfile
from pathlib import Path

import torch
from torch import distributed as dist

from reelray.kernels.to_peers.api import Rooms
from reelray.workers.parallel.peer_memory import open_peer_memory


class FileMemory:
    """Implements `PeerMemory`; rooms hold nonsense at first."""

    def __init__(self, group):
        self.group = group
        self.rooms = {}

    def room(self, name, elements, dtype):
        found = self.rooms.get((name, dtype))
        if found is not None and found.mine.numel() >= elements:
            return found
        folder = [tempfile.mkdtemp(prefix="reelray-test-rooms-") if self.group.rank() == 0 else None]
        dist.broadcast_object_list(folder, dist.get_global_rank(self.group, 0), group=self.group)
        paths = [str(Path(folder[0]) / str(rank)) for rank in range(self.group.size())]
        own = torch.from_file(paths[self.group.rank()], shared=True, size=elements, dtype=dtype)
        own.fill_(float("nan"))
        dist.barrier(self.group)
        tensors = tuple(torch.from_file(path, shared=True, size=elements, dtype=dtype) for path in paths)
        dist.barrier(self.group)
        if self.group.rank() == 0:
            shutil.rmtree(folder[0])
        self.rooms[name, dtype] = Rooms(mine=own, tensors=tensors)
        return self.rooms[name, dtype]

    def meet(self):
        dist.barrier(self.group)

    def stop(self):
        pass


def open_file_memory(group, device):
    """As `open_peer_memory`, on CPUs too."""
    return open_peer_memory(group, device) if device.type == "cuda" else FileMemory(group)
