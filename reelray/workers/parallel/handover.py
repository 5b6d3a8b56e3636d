"""Clean latents on their way from the ranks that denoise to those that decode."""

import torch
from torch import Tensor
from torch import distributed as dist

from reelray.workers.parallel.mesh import AxisGroup


class BroadcastHandover:
    """Implements `Handover` as one broadcast per chunk, on a communicator of its own.

    Args:
        group: The sender, then all receivers.
        device: Device of the latents.
    """

    def __init__(self, group: AxisGroup, device: torch.device) -> None:
        self._group = group
        self._device = device

    def send(self, latents_1CTHW: Tensor) -> None:
        """See `Handover`."""
        self._broadcast(latents_1CTHW.float().contiguous())

    def receive(self, shape_1CTHW: tuple[int, ...]) -> Tensor:
        """See `Handover`."""
        return self._broadcast(torch.empty(shape_1CTHW, dtype=torch.float32, device=self._device))

    def _broadcast(self, latents_1CTHW: Tensor) -> Tensor:
        dist.broadcast(latents_1CTHW, self._group.ranks[0], group=self._group.process_group)
        return latents_1CTHW
