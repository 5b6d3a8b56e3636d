"""Draws are the published ones, and spread as they should."""

import pytest

from reelray.scheduler.simulation.draws import Draws


def test_the_numbers_are_those_of_splitmix64():
    """First outputs for seed 1234567, as its authors' reference prints them."""
    reference = (6457827717110365317, 3203168211198807973, 9817491932198370423)
    draws = Draws(1234567)
    assert [draws.uniform() for _ in reference] == [(number >> 11) / 2**53 for number in reference]


def test_waits_have_the_mean_of_their_rate():
    draws = Draws(1)
    assert sum(draws.wait(4.0) for _ in range(20_000)) / 20_000 == pytest.approx(0.25, rel=0.03)
