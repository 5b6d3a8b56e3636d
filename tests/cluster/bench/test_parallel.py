"""`reelray bench parallel` on two ranks of a CPU, with a tiny model."""

import dataclasses
import json

import pytest

from reelray.cluster.bench.request import BenchOptions, make_request
from reelray.cluster.calibration import load_calibration, packaged_table, read_calibration
from reelray.cluster.cli import main
from reelray.cluster.services import default_services
from reelray.workers.parallel.local_ranks import run_ranks
from tests.support.bench_cases import run_broken

pytestmark = pytest.mark.usefixtures("diffusers_in_ranks")
RUNS = 2
TINY = ["--model", "wan2.1-1.3b", "--device", "cpu", "--tiny", "--gpus", "2", "--runs", str(RUNS), "--limit", "120"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    files = ["--out", folder / "report.json", "--table", folder / "table.json"]
    against = ["--against", "diffusers", "--against", "xfuser", "--head-groups", "1,2"]
    code = main(["bench", "parallel", *TINY, *against, *map(str, files)])
    return code, folder, json.loads((folder / "report.json").read_text())


def by_name(rows):
    return {(r["what"], r["by"], r["layout"], r.get("head_groups") or 1): r for r in rows}


def test_every_layout_is_checked_and_timed(ran):
    code, _, report = ran
    rows = by_name(report["rows"])
    assert code == 0
    assert report["failure"] is None
    assert set(rows) == {
        *{
            (what, "reelray", layout, 1)
            for what in ("forward", "guided step")
            for layout in ("", "ulysses=2", "ring=2")
        },
        *{(what, "reelray", "ulysses=2", 2) for what in ("forward", "guided step")},
        *{(what, "reelray", layout, 1) for what in ("decode", "decode to bytes") for layout in ("", "rows=2")},
        ("guided step", "reelray", "cfg=2", 1),
        ("forward", "diffusers", "", 1),
        ("forward", "diffusers", "ulysses=2", 1),
    }
    for row in rows.values():
        assert not row["wrong"]
        assert row["error"] <= row["limit"]
        assert [len(run) for run in row["samples_ms"]] == [2] * RUNS
        assert min(min(run) for run in row["samples_ms"]) > 0
    # Other sums in another order: were a result compared with itself, its error would be 0.
    assert rows["forward", "reelray", "ring=2", 1]["error"] > 0
    assert rows["forward", "diffusers", "ulysses=2", 1]["error"] > 0


def test_speed_ups_are_over_one_rank_of_the_same_kind(ran):
    rows = by_name(ran[2]["rows"])
    for (what, by, _, _), row in rows.items():
        assert row["speed_up"] == pytest.approx(rows[what, by, "", 1]["median_ms"] / row["median_ms"])


def test_others_are_said_to_be_measured_or_missing(ran):
    _, folder, report = ran
    assert report["peers"]["diffusers"] == "measured"
    page = (folder / "report.md").read_text()
    if report["machine"]["xfuser"] == "not installed":
        assert report["peers"]["xfuser"] == "not installed"
        assert "\nxfuser: not installed\n" in page
    assert "| forward | diffusers | ulysses=2 | 2 |" in page


def test_the_table_is_read_and_tells_what_was_not_measured(ran):
    _, folder, _ = ran
    table, shipped = read_calibration(folder / "table.json"), load_calibration()
    numbers = json.loads((folder / "table.json").read_text())["numbers"]
    measured = {name for name, entry in numbers.items() if entry["source"].startswith("reelray bench parallel on 2 x")}
    certain = {
        *{"gemm_tflops", "gemm_half_size", "attention_tflops", "cross_tflops", "memory_gb_s", "relayout_gb_s"},
        *{"launch_ms", "exchange_nvlink_ms", "ulysses_nvlink_ms", "decode_tflops", "decode_speedup"},
    }
    # Noise may hide these on a busy machine: they are differences of times.
    assert certain <= measured <= certain | {"exchange_launch_ms", "passes_dim", "passes_ffn"}
    for name in set(numbers) - measured:
        assert numbers[name]["source"].startswith("not measured in this run; from table h200: ")
        assert numbers[name]["date"] == packaged_table()["numbers"][name]["date"]
    assert table.host_gb_s == shipped.host_gb_s
    assert [x for x, _ in table.gemm_tflops.points] == [96]
    assert table.decode_speedup.points[0] == (1, 1.0)


def test_predictions_stand_beside_measurements(ran):
    rows = by_name(ran[2]["rows"])
    for layout in ("", "cfg=2", "ulysses=2", "ring=2"):
        predictions = rows["guided step", "reelray", layout, 1]["predictions"]
        assert len(predictions) == 2
        for said in predictions.values():
            median = rows["guided step", "reelray", layout, 1]["median_ms"]
            assert said["error"] == pytest.approx(said["ms"] / median - 1)
    shipped, own = rows["decode", "reelray", "", 1]["predictions"].values()
    assert abs(own["error"]) < 1e-6
    assert shipped["error"] < -0.9


@pytest.fixture(scope="module")
def broken():
    options = BenchOptions(model="wan2.1-1.3b", gpus=2, device="cpu", tiny=True, against=("diffusers",), runs=1)
    case = make_request(options, default_services()).case
    case = dataclasses.replace(case, warmup=0)
    return run_ranks(run_broken, case, ranks=2, deadline_s=120)[0]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("peer fails on one rank", "failed: ValueError: no such backend"),
        ("peer is missing", "not installed"),
        ("peer is wrong", "wrong result: relative error 1.0"),
    ],
)
def test_a_peer_that_fails_is_left_out_and_ours_is_measured(broken, how, said):
    found = broken[how]
    assert found["peers"] == {"diffusers": said}
    assert {row["by"] for row in found["rows"]} == {"reelray"}
    assert all(row["samples_ms"] for row in found["rows"])


def test_the_attention_of_xfuser_is_measured_in_our_model(broken):
    found = broken["xfuser on a CPU"]
    assert found["peers"] == {"xfuser": "measured"}
    (row,) = [row for row in found["rows"] if row["by"] == "xfuser"]
    assert (row["what"], row["layout"], row["ranks"], row["wrong"]) == ("forward", "ulysses=2", 2, False)
    assert 0 < row["error"] <= row["limit"]
    assert row["samples_ms"]


def test_forwards_over_remembered_frames_are_checked_and_timed(broken):
    rows = broken["frames are remembered"]["rows"]
    assert {(row["what"], row["layout"]) for row in rows if row["by"] == "reelray"} == {
        *{(what, layout) for what in ("forward", "guided step") for layout in ("", "ulysses=2", "ring=2")},
        ("guided step", "cfg=2"),
    }
    assert all(row["samples_ms"] and not row["wrong"] for row in rows)


@pytest.mark.parametrize(
    "how", ["tokens are lost", "branches are swapped", "one rank has NaN", "another video is remembered"]
)
def test_nothing_is_timed_when_a_layout_is_wrong(broken, how):
    rows = [row for row in broken[how]["rows"] if row["what"] in {"forward", "guided step"}]
    wrong = {(row["what"], row["layout"]) for row in rows if row["wrong"]}
    assert {("guided step", "ulysses=2"), ("forward", "ulysses=2")} <= wrong
    assert not {("guided step", ""), ("forward", "")} & wrong
    assert not any("samples_ms" in row for row in rows)
    peers = {} if "remembered" in how else {"diffusers": "not measured: our own result is wrong"}
    assert broken[how]["peers"] == peers


def test_decode_is_not_timed_when_its_rows_are_wrong(broken):
    rows = [row for row in broken["rows are shifted"]["rows"] if row["what"].startswith("decode")]
    assert {row["layout"]: row["wrong"] for row in rows} == {"": False, "rows=2": True}
    assert not any("samples_ms" in row for row in rows)
