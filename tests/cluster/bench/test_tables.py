"""From samples to medians and to a calibration table. No ranks are started."""

import datetime as dt
import json

import pytest

from reelray.cluster.bench import run as bench_run
from reelray.cluster.bench.request import BenchOptions, make_request
from reelray.cluster.bench.results import summarise, time_row
from reelray.cluster.bench.table import fit_products, make_table
from reelray.cluster.calibration import load_calibration, packaged_table, parse_calibration
from reelray.cluster.services import default_services
from reelray.proto.errors import EngineError, InputError
from reelray.workers.parallel import local_ranks

DAY = dt.date(2026, 11, 30)
ROW = {"by": "reelray", "head_groups": 1, "error": 0.0, "limit": 0.05, "wrong": False}


def request_for(model="wan2.1-1.3b", **options):
    return make_request(BenchOptions(model=model, size="832x480", frames=81, **options), default_services())


def rows_of(forward_ms, decode_ms=1000.0):
    rows = [
        {"what": "forward", "layout": "", "ranks": 1, "samples_ms": [[forward_ms] * 4]},
        {"what": "guided step", "layout": "cfg=2,ulysses=2", "ranks": 4, "samples_ms": [[forward_ms / 2] * 4]},
        {"what": "decode", "layout": "", "ranks": 1, "samples_ms": [[decode_ms] * 4]},
        {"what": "decode", "layout": "rows=4", "ranks": 4, "samples_ms": [[decode_ms / 3.5] * 4]},
    ]
    return [ROW | row for row in rows]


def findings_for(request, dim, forward_ms=500.0, **rates):
    rates = {
        "gemm": [{"tokens": n, "dim": dim, "tflops": 700 * n * dim / (n * dim + 2e6)} for n in (32760, 8190, 1560)],
        "attention": [{"queries_heads": 393120, "tflops": 600.0}, {"queries_heads": 98280, "tflops": 550.0}],
        "exchange": [{"sent_bytes": 786432.0, "ms": 0.03}, {"sent_bytes": 2e8, "ms": 0.7}],
        "memory_gb_s": 4000.0,
        "launch_ms": 0.5,
        **rates,
    }
    machine = {"ranks": 4, "device": "NVIDIA H200"}
    return {"machine": machine, "rates": rates, "rows": summarise(request, rows_of(forward_ms), {})}


def test_shared_work_takes_as_long_as_its_slowest_rank_and_single_work_its_mean():
    samples = [[1.0, 2.0, 3.0, 6.0], [2.0, 2.0, 2.0, 2.0], [1.0, 1.0, 1.0, 9.0]]
    shared = time_row({"ranks": 4, "samples_ms": samples})
    assert (shared["median_ms"], shared["best_ms"], shared["worst_ms"], shared["runs"]) == (6.0, 2.0, 9.0, 3)
    assert time_row({"ranks": 1, "samples_ms": samples})["median_ms"] == 3.0
    assert time_row({"ranks": 4})["median_ms"] is None


def test_rate_and_half_size_of_products_are_found():
    points = [{"tokens": n, "dim": 1536, "tflops": 750 * n * 1536 / (n * 1536 + 1.5e6)} for n in (500, 8190, 32760)]
    assert fit_products(points) == pytest.approx((750, 1.5e6))
    flat = [{"tokens": n, "dim": 8, "tflops": rate} for n, rate in ((10, 5.0), (100, 4.0))]
    assert fit_products(flat) == (5.0, 1.0)
    assert fit_products([]) is None


def test_a_table_of_measured_points_predicts_the_forward_it_was_made_of():
    request = request_for()
    table = parse_calibration(make_table(request, findings_for(request, 1536), packaged_table(), today=DAY), "t")
    assert table.gemm_rate(8190, 1536) == pytest.approx(700 * 8190 * 1536 / (8190 * 1536 + 2e6))
    assert table.exchange_time(786432, request.link) == pytest.approx(0.03)
    assert table.decode_speedup.at(4) == pytest.approx(3.5)
    assert table.host_gb_s == load_calibration().host_gb_s
    summed = summarise(request, rows_of(500.0), {"own": table})
    forward, guided, decode, rows = (row["predictions"]["own"]["ms"] for row in summed)
    assert (forward, decode, rows) == pytest.approx((500, 1000, 1000 / 3.5))
    assert 250 < guided < 300
    assert summed[3]["speed_up"] == pytest.approx(3.5)


def test_a_second_model_refines_the_table_of_the_same_machine():
    small, large = request_for(), request_for("wan2.1-14b")
    first = make_table(small, findings_for(small, 1536), packaged_table(), today=DAY)
    second = make_table(large, findings_for(large, 5120, 2900.0, attention=[]), first, today=DAY)
    assert [x for x, _ in second["numbers"]["gemm_tflops"]["value"]] == [1536, 5120]
    assert "some points from earlier runs" not in first["numbers"]["attention_tflops"]["source"]
    kept = second["numbers"]["host_gb_s"]["source"]
    assert kept == first["numbers"]["host_gb_s"]["source"]
    assert kept.count("not measured in this run") == 1
    elsewhere = findings_for(large, 5120, 2900.0) | {"machine": {"ranks": 2, "device": "another"}}
    assert len(make_table(large, elsewhere, first, today=DAY)["numbers"]["gemm_tflops"]["value"]) == 1


def test_what_recordings_keep_is_told_in_layers_of_the_plan():
    request = request_for()
    layer = 15600 * 2 * (1536 + 8960) * 2  # tokens; stream and feed-forward, twice; two bytes
    found = findings_for(request, 1536, graph_pool={"tokens": 15600, "bytes": 0.75 * layer})
    table = make_table(request, found, packaged_table(), today=DAY)["numbers"]["graph_pool_factor"]
    assert (table["value"], table["kind"]) == (pytest.approx(0.75), "measured")


def test_what_was_found_before_a_rank_was_lost_is_kept(monkeypatch):
    request = request_for(device="cpu")
    data = {"peers": {}, "done": ["start", "rates"], "peak_bytes": [], **findings_for(request, 1536)}

    def die(function, case, **options):
        del function, options
        case.journal.write_text(json.dumps(data | {"machine": {**data["machine"], "torch": "2.11"}}))
        raise EngineError("rank 3 failed: it died with exit code -9")

    monkeypatch.setattr(local_ranks, "run_ranks", die)
    result = bench_run.run_bench(request)
    assert isinstance(result.failure, EngineError)
    assert result.report["failure"] == "rank 3 failed: it died with exit code -9"
    assert result.report["measured"] == ["rates"]
    assert parse_calibration(result.table, "t").memory_gb_s == 4000
    monkeypatch.setattr(local_ranks, "run_ranks", lambda *_, **__: (_ for _ in ()).throw(EngineError("early")))
    with pytest.raises(EngineError, match="early"):
        bench_run.run_bench(request)


@pytest.mark.parametrize(
    ("gpus", "layouts"),
    [
        (4, ["cfg=2,ulysses=2", "ulysses=4", "ring=4", "ring=2,ulysses=2"]),
        (2, ["cfg=2", "ulysses=2", "ring=2"]),
        (3, ["ulysses=3", "ring=3"]),
    ],
)
def test_the_usual_layouts(gpus, layouts):
    assert [str(layout) for layout in request_for(gpus=gpus).case.layouts] == layouts


def test_remembered_frames_leave_others_out():
    assert request_for(gpus=4, remembered=9).case.layouts == request_for(gpus=4).case.layouts
    for wrong, said in (
        ({"against": ("diffusers",), "remembered": 9}, "diffusers cannot attend"),
        ({"remembered": -1}, "remembered is -1"),
    ):
        with pytest.raises(InputError, match=said):
            request_for(gpus=4, **wrong)


def test_small_layouts_become_replicas_and_sizes_are_true():
    case = request_for(gpus=4, layouts="cfg=2; ulysses=2;ulysses=2").case
    assert [str(layout) for layout in case.layouts] == ["replica=2,cfg=2", "replica=2,ulysses=2"]
    assert (case.tokens, case.rows, case.columns, case.latent_frames) == (32760, 60, 104, 21)
    assert case.source.facts.dim == 1536
    assert request_for("wan2.1-14b").case.source.sizes.ffn_dim == 13824
