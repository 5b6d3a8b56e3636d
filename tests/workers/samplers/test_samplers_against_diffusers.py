"""Whole trajectories of a linear model against diffusers' schedulers."""

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

from reelray.proto.recipe import Prediction, Schedule, Solver
from reelray.workers.samplers.api import Sampler, build_sampler

SHAPE = (1, 4, 3, 2, 2)
KINDS = {Prediction.FLOW: "flow_prediction", Prediction.EPSILON: "epsilon", Prediction.X0: "sample"}


class LinearModel:
    """prediction = x @ A + b * t, mild enough that no trajectory explodes."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.matrix = torch.randn(4, 4, generator=generator) * 0.2
        self.bias = torch.randn(4, generator=generator)

    def __call__(self, latents: Tensor, timestep: float) -> Tensor:
        mixed = torch.einsum("bcthw,cd->bdthw", latents, self.matrix)
        return mixed + (self.bias * timestep / 1000).view(1, 4, 1, 1, 1)


def start() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))


def run_ours(sampler: Sampler) -> list[Tensor]:
    model, latents, path = LinearModel(), start(), []
    for index, timestep in enumerate(sampler.timesteps):
        latents = sampler.step(model(latents, timestep), latents, index)
        path.append(latents)
    return path


def run_theirs(scheduler) -> list[Tensor]:
    model, latents, path = LinearModel(), start(), []
    scheduler.set_begin_index(0)
    for timestep in scheduler.timesteps:
        latents = scheduler.step(model(latents, float(timestep)), timestep, latents, return_dict=False)[0]
        path.append(latents)
    return path


def assert_equal_paths(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    assert [index for index, (a, b) in enumerate(zip(ours, theirs, strict=True)) if not torch.equal(a, b)] == []


def assert_close_paths(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        error = (a - b).norm() / b.norm()
        assert error <= 1e-5, f"step {step}: {error:.2e}"


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 20, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0])
def test_unipc_follows_diffusers(steps: int, shift: float) -> None:
    theirs = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    theirs.set_timesteps(steps)
    sampler = build_sampler(Schedule(solver=Solver.UNIPC, steps=steps, shift=shift))
    assert sampler.timesteps == tuple(theirs.timesteps.tolist())
    assert sampler.sigmas == tuple(theirs.sigmas.tolist())
    assert_equal_paths(run_ours(sampler), run_theirs(theirs))


@pytest.mark.parametrize("kind", [Prediction.EPSILON, Prediction.X0])
def test_unipc_follows_diffusers_for_other_predictions(kind: Prediction) -> None:
    theirs = UniPCMultistepScheduler(prediction_type=KINDS[kind], use_flow_sigmas=True, flow_shift=3.0)
    theirs.set_timesteps(6)
    sampler = build_sampler(Schedule(solver=Solver.UNIPC, steps=6, shift=3.0, prediction=kind))
    assert_equal_paths(run_ours(sampler), run_theirs(theirs))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("steps", [1, 2, 3, 14, 15, 30])
def test_dpmpp_follows_diffusers(steps: int) -> None:
    theirs = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    theirs.set_timesteps(steps)
    sampler = build_sampler(Schedule(solver=Solver.DPMPP, steps=steps, shift=5.0))
    assert sampler.timesteps == tuple(theirs.timesteps.tolist())
    np.testing.assert_allclose(sampler.sigmas, theirs.sigmas, rtol=1e-6)
    assert_equal_paths(run_ours(sampler), run_theirs(theirs))


@pytest.mark.parametrize("steps", [1, 4, 30])
def test_euler_follows_diffusers_on_the_plain_grid(steps: int) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=5.0)
    theirs.set_timesteps(sigmas=np.linspace(1, 0, steps + 1)[:-1].tolist())
    sampler = build_sampler(Schedule(solver=Solver.EULER, steps=steps, shift=5.0))
    np.testing.assert_allclose(sampler.timesteps, theirs.timesteps, rtol=1e-6)
    np.testing.assert_allclose(sampler.sigmas, theirs.sigmas, rtol=1e-6)
    assert_close_paths(run_ours(sampler), run_theirs(theirs))
