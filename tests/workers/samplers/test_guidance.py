"""Guidance weights per step, and the mix of the branches."""

import pytest
import torch

from reelray.proto.recipe import Guidance
from reelray.workers.samplers.guidance import mix_branches, plan_weights

SIGMAS = (1.0, 0.8, 0.4, 0.1, 0.0)


def test_one_scale_serves_every_step() -> None:
    assert plan_weights(Guidance(scale=5.0), SIGMAS) == (5.0,) * 4


def test_weights_per_step_override_the_scale() -> None:
    assert plan_weights(Guidance(scale=5.0, per_step=(7, 5, 3, 1)), SIGMAS) == (7, 5, 3, 1)


def test_outside_the_interval_the_weight_is_one() -> None:
    assert plan_weights(Guidance(scale=5.0, interval=(0.4, 0.8)), SIGMAS) == (1, 5, 5, 1)


def test_a_wrong_number_of_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="per_step holds 2 weights; the schedule has 4 steps"):
        plan_weights(Guidance(per_step=(7, 5)), SIGMAS)


def test_mix_extrapolates_from_the_unconditional_branch() -> None:
    conditional, unconditional = torch.tensor([3.0]), torch.tensor([1.0])
    assert mix_branches(conditional, unconditional, 1.0).item() == 3
    assert mix_branches(conditional, unconditional, 0.0).item() == 1
    assert mix_branches(conditional, unconditional, 4.0).item() == 9
