"""The H200 table against the runs it was made from: h200, diffusers with compiled blocks, 2026-11-20."""

import pytest

from reelray.scheduler.plan.prediction import predict_decode_s
from reelray.scheduler.plan.step_time import predict_step
from tests.support.planning import make_job, make_setting, table

MEASURED_MS = [
    ("1.3b", "480p", 81, "", 520.0),
    ("1.3b", "480p", 9, "", 36.0),
    ("14b", "480p", 81, "", 2890.0),
    ("14b", "720p", 81, "", 11354.0),
    ("1.3b", "480p", 81, "ulysses=4", 144.6),
    ("1.3b", "480p", 81, "ulysses=2,ring=2", 150.1),
    ("1.3b", "480p", 9, "ulysses=4", 28.9),
    ("14b", "480p", 81, "ulysses=4", 802.9),
    ("14b", "720p", 81, "ulysses=4", 2996.5),
]


def forward_ms(model, size, frames, layout):
    job = make_job(model, size, frames=frames, guided=False)
    return predict_step(make_setting(job, layout), job.windows[0], guided=False).total_ms


@pytest.mark.parametrize(("model", "size", "frames", "layout", "measured_ms"), MEASURED_MS)
def test_a_forward_is_predicted_within_ten_percent(model, size, frames, layout, measured_ms):
    assert forward_ms(model, size, frames, layout) == pytest.approx(measured_ms, rel=0.10)


def test_the_mean_error_is_below_four_percent():
    errors = [abs(forward_ms(*case) / measured_ms - 1) for *case, measured_ms in MEASURED_MS]
    assert sum(errors) / len(errors) < 0.04


def test_decode_is_predicted():
    job = make_job("1.3b", "480p")
    assert 1.714 < predict_decode_s(job, table(), 1) < 1.826


if __name__ == "__main__":  # the table of the benchmark report
    for *case, measured_ms in MEASURED_MS:
        predicted_ms = forward_ms(*case)
        print(*case, f"{measured_ms:.1f} {predicted_ms:.1f} {predicted_ms / measured_ms - 1:+.1%}", sep=" | ")
