"""Noise levels: golden step lists, the training table, and the lookup."""

import pytest

from reelray.proto.recipe import Schedule, Solver
from reelray.workers.samplers.sigmas import (
    NoiseLevels,
    build_table,
    find_nearest_sigma,
    plan_noise_levels,
    warp_timesteps,
)


@pytest.mark.parametrize(
    ("listed", "shift", "warped"),
    [
        ((1000, 750, 500, 250), 5.0, (1000, 937.5, 833.33, 625)),
        ((1000, 800, 600, 400, 200), 5.0, (1000, 952.38, 882.35, 769.23, 555.56)),
        ((1000, 500), 5.0, (1000, 833.33)),
        ((1000, 100), 5.0, (1000, 357.14)),
        ((1000, 750, 500, 250), 8.0, (1000, 960, 888.9, 727.3)),
        ((1000, 0), 5.0, (1000, 0)),
    ],
)
def test_published_lists_warp_to_their_known_values(listed, shift, warped) -> None:
    assert warp_timesteps(listed, shift) == pytest.approx(warped, abs=0.05)


def test_a_fraction_cannot_be_warped() -> None:
    with pytest.raises(ValueError, match=r"357\.14.*must hold integers"):
        warp_timesteps((1000, 357.14), 5.0)


def test_table_has_1000_entries_from_one_down_to_above_zero() -> None:
    table = build_table(5.0)
    assert len(table) == 1000
    assert table[0] == 1
    assert table[-1] == pytest.approx(0.00498, abs=1e-5)  # t = 0 looks this one up: the table has no 0
    assert (table[1:] < table[:-1]).all()
    assert table[500] == pytest.approx(5 * 0.5 / (1 + 4 * 0.5))


def test_lookup_takes_the_nearest_entry() -> None:
    table = build_table(1.0)
    assert find_nearest_sigma(757.2, table) == pytest.approx(0.757)
    assert find_nearest_sigma(757.7, table) == pytest.approx(0.758)
    assert find_nearest_sigma(0, table) == pytest.approx(0.001)


def test_renoise_uses_the_table_and_lcm_the_exact_value() -> None:
    literal = (1000.0, 757.0, 522.0)
    looked_up = plan_noise_levels(Schedule(solver=Solver.X0_RENOISE, timesteps=literal, shift=8.0))
    exact = plan_noise_levels(Schedule(solver=Solver.LCM, timesteps=literal, shift=8.0))
    assert looked_up.timesteps == exact.timesteps == literal
    assert exact.sigmas == pytest.approx((1, 0.757, 0.522, 0), rel=1e-6)
    table = build_table(8.0)
    assert set(looked_up.sigmas[:-1]) <= {float(sigma) for sigma in table}
    assert looked_up.sigmas == pytest.approx(exact.sigmas, abs=2e-3)
    assert looked_up.sigmas != exact.sigmas


def test_warped_schedule_feeds_the_network_warped_timesteps() -> None:
    schedule = Schedule(solver=Solver.X0_RENOISE, timesteps=(1000, 750, 500, 250), shift=5.0, warp=True)
    levels = plan_noise_levels(schedule)
    assert levels.timesteps == pytest.approx((1000, 937.5, 833.33, 625), abs=0.01)
    assert levels.sigmas == pytest.approx((1, 0.9375, 0.83333, 0.625, 0), abs=1e-5)


def test_multistep_solvers_never_start_at_one() -> None:
    levels = plan_noise_levels(Schedule(solver=Solver.UNIPC, timesteps=(1000, 500)))
    assert 0.99999 < levels.sigmas[0] < 1
    assert levels.timesteps == (1000, 500)


def test_levels_must_fit_together() -> None:
    with pytest.raises(ValueError, match="do not fit 2 steps"):
        NoiseLevels(sigmas=(1.0, 0.0), timesteps=(1000.0, 500.0))


@pytest.mark.parametrize("solver", [Solver.EULER, Solver.UNIPC, Solver.DPMPP, Solver.LCM])
def test_a_step_at_timestep_zero_is_refused(solver: Solver) -> None:
    with pytest.raises(ValueError, match="timesteps ends in 0"):
        plan_noise_levels(Schedule(solver=solver, timesteps=(1000, 0)))
    plan_noise_levels(Schedule(solver=Solver.X0_RENOISE, timesteps=(1000, 0)))
