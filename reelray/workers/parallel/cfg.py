"""The branches of guidance on two groups of ranks."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch import distributed as dist

from reelray.workers.parallel.mesh import AxisGroup
from reelray.workers.samplers.guidance import Branch, mix_branches


class ParallelBranches:
    """Implements `Branches` on the cfg axis of a lane: each index evaluates its branch.

    Every rank of a lane ends each step with the same bits by construction, so that the latents, which every rank
    advances by itself, never drift apart: two predictions are gathered in float32 and mixed by everyone, and where the
    weight is 1 the conditional ranks send theirs. Evaluating it on all ranks would take as long, but give equal bits
    only as long as both pick the same kernels.

    Args:
        group: The cfg axis.
        device: Device of the predictions.
        in_step: Whether ranks without a branch to evaluate go through the other one all the same, because the layers
            need them: those that share their weights gather them together. It takes no longer.
    """

    def __init__(self, group: AxisGroup, device: torch.device | str, *, in_step: bool = False) -> None:
        if group.size != len(Branch):
            raise ValueError(f"the cfg axis has {group.size} ranks; guidance has {len(Branch)} branches")
        self._group = group
        self._device = torch.device(device)
        self._in_step = in_step

    def begin(self) -> "ParallelBranches":
        """See `Branches`; the steps leave nothing."""
        return self

    def wanted(self, weight: float) -> tuple[Branch, ...]:
        """See `Branches`."""
        own = Branch(self._group.index)
        if weight != 1.0:
            return (own,)
        return (Branch.CONDITIONAL,) if self._in_step or own is Branch.CONDITIONAL else ()

    def predict(self, evaluate: Callable[[Branch], Tensor], weight: float, *, shape: torch.Size) -> Tensor:
        """See `Branches`; every rank of the axis must call it with the same weight and shape."""
        group, wanted = self._group.process_group, self.wanted(weight)
        if weight == 1.0:
            prediction = evaluate(*wanted).float().contiguous() if wanted else self._empty(*shape)
            dist.broadcast(prediction, self._group.ranks[Branch.CONDITIONAL], group=group)
            return prediction
        both = self._empty(len(Branch), *shape)
        dist.all_gather(list(both), evaluate(*wanted).float().contiguous(), group=group)
        return mix_branches(both[Branch.CONDITIONAL], both[Branch.UNCONDITIONAL], weight)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self._device)
