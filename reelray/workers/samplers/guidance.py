"""Classifier-free guidance: the weight of every step, and how its two branches become one prediction."""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor

from reelray.proto.recipe import Guidance


def plan_weights(guidance: Guidance, sigmas: Sequence[float]) -> tuple[float, ...]:
    """Weight of each step; where it is 1 the unconditional forward is not needed.

    Args:
        guidance: Scale, or one weight per step, and the interval of sigmas where they act.
        sigmas: Noise levels of the steps and a final 0.

    Returns:
        One weight per step.

    Raises:
        ValueError: `per_step` does not hold one weight per step.
    """
    steps = len(sigmas) - 1
    if guidance.per_step and len(guidance.per_step) != steps:
        raise ValueError(f"per_step holds {len(guidance.per_step)} weights; the schedule has {steps} steps")
    wished = guidance.per_step or (guidance.scale,) * steps
    low, high = guidance.interval
    return tuple(w if low <= sigma <= high else 1.0 for w, sigma in zip(wished, sigmas[:-1], strict=True))


def mix_branches(conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
    """Extrapolate from the unconditional to the conditional prediction: u + w * (c - u)."""
    return unconditional + weight * (conditional - unconditional)


class Branch(IntEnum):
    """The branches of guidance, in the order in which their texts are kept."""

    CONDITIONAL = 0
    UNCONDITIONAL = 1


class Branches(Protocol):
    """Evaluates what a step needs of the two branches."""

    def begin(self) -> "Branches":
        """What evaluates the steps of one chunk, in their order, and holds what they leave for each other."""
        ...

    def wanted(self, weight: float) -> tuple[Branch, ...]:
        """The branches that `predict` evaluates here at this weight, in its order."""
        ...

    def predict(self, evaluate: Callable[[Branch], Tensor], weight: float, *, shape: torch.Size) -> Tensor:
        """Predict with guidance.

        Args:
            evaluate: Runs the transformer for a branch; gives float32.
            weight: Weight of the conditional branch; at 1 it is the whole prediction.
            shape: Shape of the prediction.
        """
        ...


class SequentialBranches:
    """One branch after the other, on the ranks that ask."""

    def begin(self) -> "SequentialBranches":
        """See `Branches`; the steps leave nothing."""
        return self

    def wanted(self, weight: float) -> tuple[Branch, ...]:
        """See `Branches`."""
        return (Branch.CONDITIONAL,) if weight == 1.0 else tuple(Branch)

    def predict(self, evaluate: Callable[[Branch], Tensor], weight: float, *, shape: torch.Size) -> Tensor:
        """See `Branches`."""
        del shape
        conditional = evaluate(Branch.CONDITIONAL)
        if weight == 1.0:
            return conditional
        return mix_branches(conditional, evaluate(Branch.UNCONDITIONAL), weight)
