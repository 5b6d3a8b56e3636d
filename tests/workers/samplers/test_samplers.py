"""Steps of the samplers: few-step oracle, order of accuracy, state, and refusals."""

import math

import pytest
import torch
from torch import Tensor

from reelray.proto.recipe import Prediction, Schedule, Solver
from reelray.workers.samplers.api import build_sampler
from reelray.workers.samplers.predictions import convert_to_flow, convert_to_x0

SHAPE = (1, 4, 3, 2, 2)
SELF_FORCING = Schedule(solver=Solver.X0_RENOISE, timesteps=(1000, 750, 500, 250), shift=5.0, warp=True)


def draw(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def predict(latents: Tensor, timestep: float) -> Tensor:
    return torch.sin(3 * latents) + timestep / 1000


def test_x0_renoise_follows_the_published_rollout() -> None:
    # The oracle keeps the published arithmetic: float64 clean estimate, float32 table, nearest entry.
    table = [5 * s / (1 + 4 * s) for s in (1 - i / 1000 for i in range(1000))]
    steps = [1000.0, 937.5, 1000 * 5 * 0.5 / 3, 625.0]
    latents = draw(0).double()
    for index, timestep in enumerate(steps):
        sigma = min(table, key=lambda s: abs(1000 * s - timestep))
        x0 = latents - sigma * predict(latents, timestep)
        if index == 3:
            latents = x0
            break
        following = min(table, key=lambda s: abs(1000 * s - steps[index + 1]))
        latents = (1 - following) * x0 + following * draw(index + 1).double()

    sampler, ours = build_sampler(SELF_FORCING), draw(0)
    assert sampler.needs_noise
    for index, timestep in enumerate(sampler.timesteps):
        ours = sampler.step(predict(ours, timestep), ours, index, draw(index + 1))
    assert ours.dtype == torch.float32
    assert (ours - latents).norm() / latents.norm() < 1e-5


def test_x0_renoise_refuses_to_go_on_without_noise() -> None:
    sampler = build_sampler(SELF_FORCING)
    with pytest.raises(ValueError, match="step 0 needs fresh noise"):
        sampler.step(draw(0), draw(1), 0)
    sampler.step(draw(0), draw(1), 3)  # the last step ends clean


def test_one_step_model_returns_its_clean_estimate() -> None:
    sampler = build_sampler(Schedule(solver=Solver.X0_RENOISE, timesteps=(1000,), shift=5.0))
    flow, latents = draw(0), draw(1)
    assert torch.equal(sampler.step(flow, latents, 0), latents - flow)


def solve_gaussian(solver: Solver, steps: int) -> float:
    """Relative error at the end of the exact flow of data with variance 1/4."""
    variance = 0.25
    sampler, latents = build_sampler(Schedule(solver=solver, steps=steps, shift=1.0)), draw(0).double()
    sigma_0 = sampler.sigmas[0]
    exact = latents * math.sqrt(variance / ((1 - sigma_0) ** 2 * variance + sigma_0**2))
    for index in range(steps):
        sigma = sampler.sigmas[index]
        total = (1 - sigma) ** 2 * variance + sigma**2
        flow = latents * (sigma - (1 - sigma) * variance) / total
        latents = sampler.step(flow, latents, index)
    return float((latents - exact).norm() / exact.norm())


@pytest.mark.parametrize(("solver", "order"), [(Solver.EULER, 1), (Solver.DPMPP, 1.7), (Solver.UNIPC, 1.7)])
def test_error_falls_with_the_order_of_the_solver(solver: Solver, order: float) -> None:
    coarse, fine = solve_gaussian(solver, 40), solve_gaussian(solver, 160)
    assert math.log(coarse / fine, 4) > order - 0.15


def test_multistep_solvers_beat_euler() -> None:
    errors = {solver: solve_gaussian(solver, 20) for solver in (Solver.EULER, Solver.DPMPP, Solver.UNIPC)}
    assert errors[Solver.UNIPC] < errors[Solver.EULER] / 4
    assert errors[Solver.DPMPP] < errors[Solver.EULER] / 4


@pytest.mark.parametrize("solver", list(Solver))
@pytest.mark.parametrize("stop", [1, 2, 4])
def test_restored_sampler_continues_bit_equal(solver: Solver, stop: int) -> None:
    schedule = Schedule(solver=solver, steps=6, shift=3.0)

    def advance(sampler, latents: Tensor, indices: range) -> Tensor:
        for index in indices:
            latents = sampler.step(predict(latents, sampler.timesteps[index]), latents, index, draw(index))
        return latents

    straight = advance(build_sampler(schedule), draw(9), range(6))
    first = build_sampler(schedule)
    latents = advance(first, draw(9), range(stop))
    snapshot = {key: value.clone() for key, value in first.state().items()}
    advance(first, latents, range(stop, 6))  # going on must not change what was taken
    second = build_sampler(schedule)
    second.restore(snapshot)
    assert torch.equal(advance(second, latents, range(stop, 6)), straight)


def test_multistep_refuses_a_skipped_or_repeated_step() -> None:
    sampler = build_sampler(Schedule(solver=Solver.UNIPC, steps=3))
    with pytest.raises(ValueError, match="step 1 was asked for; the next of 3 is 0"):
        sampler.step(draw(0), draw(1), 1)
    sampler.step(draw(0), draw(1), 0)
    with pytest.raises(ValueError, match="the next of 3 is 1"):
        sampler.step(draw(0), draw(1), 0)


def test_step_leaves_its_inputs_alone() -> None:
    for solver in Solver:
        sampler = build_sampler(Schedule(solver=solver, steps=3))
        latents = draw(1)
        for index in range(3):
            before, flow = latents.clone(), draw(index)
            result = sampler.step(flow, latents, index, draw(7))
            assert torch.equal(latents, before)
            assert torch.equal(flow, draw(index))
            latents = result


@pytest.mark.parametrize("kind", list(Prediction))
def test_every_prediction_of_the_truth_leads_to_the_truth(kind: Prediction) -> None:
    sigma, x0, noise = 0.3, draw(0).double(), draw(1).double()
    latents = (1 - sigma) * x0 + sigma * noise
    prediction = {
        Prediction.FLOW: noise - x0,
        Prediction.EPSILON: noise,
        Prediction.X0: x0,
        Prediction.V: (1 - sigma) * noise - sigma * x0,
    }[kind]
    torch.testing.assert_close(convert_to_x0(prediction, latents, sigma, kind), x0)
    torch.testing.assert_close(convert_to_flow(prediction, latents, sigma, kind), noise - x0)


def test_epsilon_at_pure_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="prediction is epsilon"):
        build_sampler(Schedule(solver=Solver.EULER, prediction=Prediction.EPSILON))
    build_sampler(Schedule(solver=Solver.UNIPC, prediction=Prediction.EPSILON))
