"""The H200 table against the runs it was made from."""

import pytest

from benchmarks.plan import MEASURED_MS, predict_forward_ms
from reelray.scheduler.plan.prediction import predict_decode_s
from tests.support.planning import make_job, table


@pytest.mark.parametrize(("model", "size", "frames", "layout", "measured_ms"), MEASURED_MS)
def test_a_forward_is_predicted_within_ten_percent(model, size, frames, layout, measured_ms):
    assert predict_forward_ms(model, size, frames, layout) == pytest.approx(measured_ms, rel=0.10)


def test_the_mean_error_is_below_four_percent():
    errors = [abs(predict_forward_ms(*case) / measured_ms - 1) for *case, measured_ms in MEASURED_MS]
    assert sum(errors) / len(errors) < 0.04


def test_decode_is_predicted():
    job = make_job("1.3b", "480p")
    assert predict_decode_s(job, table(), 1) == pytest.approx(0.714, rel=0.01)
    assert predict_decode_s(job, table(), 2) == pytest.approx(0.388, rel=0.01)
