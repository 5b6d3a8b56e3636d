"""The process groups of a gang, and the memory that their ranks share."""

from collections.abc import Callable
from datetime import timedelta

import torch
from torch import distributed as dist

from reelray.proto.errors import EngineError
from reelray.workers.parallel.peer_memory import PeerMemory, open_peer_memory

Ranks = tuple[int, ...]
MemoryOpener = Callable[[dist.ProcessGroup, torch.device], PeerMemory | None]


def abort_groups() -> None:
    """Give up every process group of this process, if there are any; needs no other rank, and any thread may call it.

    On NCCL the collectives in flight end. On gloo they end when their peer's process does, or drops its groups.
    """
    if dist.is_initialized():
        # All at once: the communicators of NCCL would wait for each other. Torch has no public name for it.
        dist.distributed_c10d._abort_process_group()  # noqa: SLF001


class GroupPool:
    """Process groups by their ranks: two axes with the same ranks share one, unless they use another channel.

    Args:
        device: Where the tensors of the collectives lie.
        timeout_s: After how long a collective fails; None takes torch's default.
        open_memory: Lets the ranks of a group share memory, or gives None.
    """

    def __init__(
        self, device: torch.device, *, timeout_s: float | None = None, open_memory: MemoryOpener = open_peer_memory
    ) -> None:
        self.device = device
        self._timeout = None if timeout_s is None else timedelta(seconds=timeout_s)
        self._groups: dict[tuple[Ranks, str], dist.ProcessGroup | None] = {}
        self._open_memory = open_memory
        self._memories: dict[Ranks, PeerMemory | None] = {}
        self._end: str | None = None

    def __len__(self) -> int:
        """Groups of the gang, those without this rank included."""
        return len(self._groups)

    def add(self, ranks: Ranks, channel: str = "") -> None:
        """Make the group of these ranks unless there is one. Every rank of the world must call it in the same order."""
        if (ranks, channel) in self._groups:
            return
        group = dist.new_group(list(ranks), timeout=self._timeout, group_desc=f"{channel} ranks {ranks}".lstrip())
        self._groups[ranks, channel] = group if isinstance(group, dist.ProcessGroup) else None
        if dist.get_rank() in ranks and len(ranks) > 1:
            # NCCL connects at the first collective, which takes seconds: not in the middle of a request.
            dist.all_reduce(torch.zeros(1, device=self.device), group=group)

    def get(self, ranks: Ranks, channel: str = "") -> dist.ProcessGroup:
        """The group of these ranks, of which this one is one.

        Raises:
            EngineError: The mesh was closed or aborted.
        """
        if self._end is not None:
            raise EngineError(
                f"the mesh was {self._end}; its process groups are gone, so the gang must be started anew"
            )
        group = self._groups[ranks, channel]
        assert group is not None, f"this rank is not one of {ranks}"
        return group

    def share_memory(self, ranks: Ranks) -> None:
        """Let these ranks share memory if they can; each of them must call it."""
        if ranks not in self._memories and len(ranks) > 1 and dist.get_rank() in ranks:
            self._memories[ranks] = self._open_memory(self.get(ranks), self.device)

    def peer_memory(self, ranks: Ranks) -> PeerMemory | None:
        """What these ranks share; None where they share nothing."""
        return self._memories.get(ranks)

    def close(self) -> None:
        """Destroy the groups after the last collective; every rank must call it."""
        if self._end is None:
            self._end = "closed"
            self._memories.clear()
            for group in self._groups.values():
                if group is not None:
                    dist.destroy_process_group(group)

    def abort(self) -> None:
        """Give up every process group of this process, the default one included; needs no other rank."""
        if self._end is None:
            self._end = "aborted"
            try:
                for memory in self._memories.values():
                    if memory is not None:
                        memory.stop()  # and kept until nothing runs: to free it waits for the device
            finally:
                abort_groups()
                # The connections of gloo close when nobody holds the group any more, which wakes peers that wait for
                # this rank.
                self._groups.clear()
