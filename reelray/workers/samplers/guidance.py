"""Classifier-free guidance: the weight of every step, and the mix of the two branches."""

from collections.abc import Sequence

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
