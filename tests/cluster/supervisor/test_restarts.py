"""How long a supervisor waits, and when it gives up."""

import pytest

from reelray.cluster.supervisor.restarts import RestartRule, Restarts


def test_waits_double_and_end():
    restarts = Restarts(RestartRule(first_wait_s=1.0, longest_wait_s=3.0, most_losses=5))
    assert [restarts.lost(0.0) for _ in range(5)] == [1.0, 2.0, 3.0, 3.0, None]


def test_a_calm_time_ends_the_row():
    restarts = Restarts(RestartRule(first_wait_s=1.0, most_losses=3, calm_s=60.0))
    assert [restarts.lost(ready_s) for ready_s in (0, 59.9, 60.0, 0, 0)] == [1.0, 2.0, 1.0, 2.0, None]


def test_a_rule_that_makes_no_sense():
    with pytest.raises(ValueError, match="most_losses is 0; it must be greater than 0"):
        RestartRule(most_losses=0)
