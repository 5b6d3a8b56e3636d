"""Mixed lengths on two replicas: the fleet packs them nearly as well as can be, routing by count does not."""

from itertools import product

import pytest

from tests.support.simulated import SECONDS, all_at_once, best_makespan, draw_lengths, makespan, simulate


def test_the_best_packing_is_what_trying_everything_finds():
    frames = draw_lengths(3, 11)
    tried = min(
        max(sum(SECONDS[f] for f, side in zip(frames, sides, strict=True) if side == chosen) for chosen in (0, 1))
        for sides in product((0, 1), repeat=len(frames))
    )
    assert best_makespan(frames) == pytest.approx(tried)


@pytest.mark.parametrize("seed", range(20))
def test_the_makespan_is_within_three_percent_of_the_best_packing(seed):
    frames = draw_lengths(seed, 24)
    assert makespan(simulate(all_at_once(frames))) <= 1.03 * best_makespan(frames)


@pytest.mark.parametrize("policy", ["turns", "counts"])
def test_routing_that_knows_no_cost_loses(policy):
    lost, ours = [], []
    for seed in range(20):
        frames = draw_lengths(seed, 24)
        lost.append(makespan(simulate(all_at_once(frames), policy=policy)) / best_makespan(frames) - 1)
        ours.append(makespan(simulate(all_at_once(frames))) / best_makespan(frames) - 1)
    assert sum(lost) / 20 > 5 * sum(ours) / 20
    assert sum(lost) / 20 > 0.06


def test_lengths_that_come_in_turns_are_the_worst_case_of_routing_in_turns():
    frames = [17, 81] * 12
    best = best_makespan(frames)
    assert makespan(simulate(all_at_once(frames))) <= 1.03 * best
    assert makespan(simulate(all_at_once(frames), policy="turns")) > 1.5 * best
