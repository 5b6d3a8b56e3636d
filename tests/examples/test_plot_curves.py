from pathlib import Path

import pytest

from examples.train_sprites.plot_curves import plot, read_curves

LOGS = Path(__file__).parents[2] / "examples" / "train_sprites" / "logs"


def test_verdicts_stand_at_the_step_they_judge():
    curves = read_curves(['{"step": 9, "of_step": 4, "color": 0.5, "event": "verdicts", "complete": true}'])
    assert curves["color"] == ([4], [0.5])
    assert "complete" not in curves


def test_the_kept_logs_become_small_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    logs = sorted(LOGS.glob("*.jsonl"))
    assert logs
    for log in logs:
        plot(read_curves(log.read_text().splitlines()), log.stem, tmp_path / "curve.png")
        assert 5_000 < (tmp_path / "curve.png").stat().st_size < 150_000
