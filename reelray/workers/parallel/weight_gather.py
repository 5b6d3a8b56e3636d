"""Gathers the shares of weights over the ranks that hold the same layers."""

from torch import Tensor
from torch import distributed as dist

from reelray.proto.errors import EngineError
from reelray.workers.parallel.mesh import AxisGroup
from reelray.workers.residency.passing_blocks import Arrival


class WeightGather:
    """Implements `Gather` over a group of its own; see `reelray.workers.parallel.mesh.WEIGHTS`.

    On NCCL it begins after the work that the current stream has, and `wait` makes the current stream wait. On gloo
    threads carry it, and `wait` blocks.

    Args:
        group: The ranks, in the order of their shares.
    """

    def __init__(self, group: AxisGroup) -> None:
        self._group = group

    def __call__(self, whole: Tensor, share: Tensor) -> Arrival:
        """See `Gather`; a collective that every rank of the group must call."""
        # torch 2.13 has renamed it, and warns of the old name.
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        work: Arrival | None = gather(whole, share, group=self._group.process_group, async_op=True)
        if work is None:
            raise EngineError("this rank is not one of those that share these weights")
        return work
