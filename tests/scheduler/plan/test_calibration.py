"""Curves and rates."""

from dataclasses import replace

import pytest

from reelray.scheduler.plan.calibration import Curve
from reelray.scheduler.plan.machine import Link
from tests.support.planning import table


def test_a_curve_goes_through_its_points_and_stops_at_its_ends():
    curve = Curve(((1.0, 10.0), (100.0, 1000.0)))
    assert [curve.at(x) for x in (0.5, 1, 10, 100, 1e6)] == pytest.approx([10, 10, 100, 1000, 1000])


@pytest.mark.parametrize("points", [(), ((1.0, 0.0),), ((2.0, 1.0), (1.0, 2.0)), ((1.0, 1.0), (1.0, 2.0))])
def test_a_curve_has_rising_positive_points(points):
    with pytest.raises(ValueError, match="curve holds"):
        Curve(points)


def test_exchanges_take_the_measured_time_and_grow_beyond_it():
    assert table().exchange_time(64 * 2**20 * 3 / 4, Link.NVLINK) == pytest.approx(0.208)
    assert table().exchange_time(1, Link.NVLINK) == 0.034
    assert table().exchange_time(2 * 201326592, Link.NVLINK) == pytest.approx(2 * 0.678)


def test_large_products_run_at_the_measured_rates():
    assert 735 < table().gemm_rate(32760, 1536) < 740
    assert 700 < table().gemm_rate(32760, 5120) < 707
    assert table().gemm_rate(4680, 1536) < 700


@pytest.mark.parametrize(
    ("change", "word"),
    [({"memory_gb_s": 0.0}, "memory_gb_s is 0.0"), ({"copy_overlap": 1.5}, "copy_overlap is 1.5"),
     ({"exchange_ms": {Link.NVLINK: Curve(((1.0, 1.0),))}}, "no curve for pcie")],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(change, word):
    with pytest.raises(ValueError, match=word):
        replace(table(), **change)
