"""The H200 table against the runs it was made from."""

import pytest

from benchmarks.plan import DECODES, MEASURED, Case, make_job, predict_ms
from reelray.scheduler.plan.prediction import predict_decode_s
from tests.support.planning import table


@pytest.mark.parametrize("case", MEASURED, ids=str)
def test_a_forward_is_predicted_within_ten_percent(case):
    assert predict_ms(case, table()) == pytest.approx(case.measured_ms, rel=0.10)


def test_whole_clips_are_predicted_within_three_percent_and_all_within_two_on_average():
    errors = {case: abs(predict_ms(case, table()) / case.measured_ms - 1) for case in MEASURED}
    assert max(error for case, error in errors.items() if case.frames == 81) < 0.03
    assert sum(errors.values()) / len(errors) < 0.025


@pytest.mark.parametrize(("ranks", "measured_ms"), DECODES)
def test_decode_is_predicted(ranks, measured_ms):
    assert 1000 * predict_decode_s(make_job(Case()), table(), ranks) == pytest.approx(measured_ms, rel=0.01)
