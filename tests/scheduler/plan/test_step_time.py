"""Terms of a step."""

from dataclasses import replace

import pytest

from reelray.proto.layout import Layout
from reelray.proto.residency import Blocks, Residency
from reelray.scheduler.plan.calibration import Curve
from reelray.scheduler.plan.machine import Link
from reelray.scheduler.plan.prediction import predict, predict_denoise
from reelray.scheduler.plan.step_time import predict_layer, predict_step
from tests.support.planning import make_job, make_machine, make_setting, make_stream, table

MB = 1e6


def step(job, layout="", *, guided=None, window=0, **where):
    guided = bool(job.guided_steps) if guided is None else guided
    return predict_step(make_setting(job, layout, **where), job.windows[window], guided=guided)


@pytest.mark.parametrize(
    ("model", "size", "ranks", "ulysses_mb", "ring_mb"),
    [("1.3b", "480p", 2, 101, 101), ("1.3b", "480p", 4, 75, 151), ("1.3b", "720p", 4, 174, 348),
     ("14b", "480p", 4, 252, 503), ("14b", "720p", 2, 774, 774), ("14b", "720p", 4, 581, 1161),
     ("14b", "720p", 8, 339, 1355)],
)  # fmt: skip
def test_bytes_of_a_layer_are_those_of_the_formula(model, size, ranks, ulysses_mb, ring_mb):
    job = make_job(model, size, guided=False)
    for axis, expected in (("ulysses", ulysses_mb), ("ring", ring_mb)):
        layer = predict_layer(make_setting(job, f"{axis}={ranks}"), job.windows[0])
        assert layer.sent_bytes / MB == pytest.approx(expected, abs=1)


def test_products_and_attention_are_counted():
    # 14B at 720p: 1807 TFLOP of products and 4682 of attention per forward.
    job = make_job(guided=False)
    flat = replace(table(), gemm_half_size=1e-6)
    time = step(job, table_=flat)
    assert time.gemm * flat.gemm_tflops.at(5120) / 1000 == pytest.approx(1807, rel=0.01)
    assert time.attention * flat.attention_tflops.at(1e9) / 1000 == pytest.approx(4682, rel=0.01)


def test_guidance_takes_two_turns_or_two_ranks():
    job = make_job()
    alone, unguided, split = step(job), step(job, guided=False), step(job, "cfg=2")
    assert alone.total_ms == pytest.approx(2 * unguided.total_ms)
    assert split.total_ms == pytest.approx(unguided.total_ms + split.cfg)
    assert 0 < split.cfg < 0.001 * split.total_ms
    # The predictions of both branches, float32: 16 x 21 x 90 x 160 values.
    assert split.sent_bytes == 4 * 16 * 21 * 90 * 160


def test_stages_wait_for_each_other():
    one, two = make_job(guided=False), make_job()
    assert step(one, "pipe=2").total_ms == pytest.approx(step(one).total_ms, rel=0.01)
    assert step(two, "pipe=2").total_ms == pytest.approx(0.75 * step(two).total_ms, rel=0.01)
    # 40 layers over 3 ranks: the longest stage has 14.
    assert step(one, "pipe=3").gemm == pytest.approx(14 / 40 * step(one).gemm)


def test_clips_that_share_steps_share_the_waiting():
    # Two turns each and one to fill the line: 3 turns for one window, 5 for two.
    job = make_job()
    one, two = (predict_denoise(make_setting(job, "pipe=2"), together=count).total_ms for count in (1, 2))
    assert two / one == pytest.approx(5 / 2 / 3, rel=0.01)
    row = predict(job, make_machine(2), table(), Layout(pipe=2), Residency())
    assert row.clip_s == pytest.approx(row.text_s + one / 1000 + row.decode_s)
    assert row.interval_s == pytest.approx(row.text_s + two / 1000 + row.decode_s)


def test_uneven_shares_cost_as_much_as_the_largest():
    job = make_job("1.3b", "480p", guided=False)
    # 12 heads over 5 ranks: three on the first two, as over 4 ranks.
    assert step(job, "ulysses=5").attention == pytest.approx(step(job, "ulysses=4").attention)
    assert step(job, "ulysses=5").gemm < step(job, "ulysses=4").gemm


def test_small_windows_wait_for_the_host():
    chunk = make_job("1.3b", "480p", frames=9, guided=False)
    slow = replace(table(), launch_ms=0.7)  # kernel by kernel
    assert step(chunk, "ulysses=4", table_=slow).launch > 0.3 * step(chunk, "ulysses=4", table_=slow).total_ms
    assert step(chunk, "ulysses=4").launch == 0  # recorded
    assert step(make_job(guided=False), "ulysses=4").launch == 0


def test_offloaded_weights_hide_behind_large_windows_only():
    away = Residency(blocks=Blocks.OFFLOADED)
    assert step(make_job(), residency=away).weights == 0
    stream = make_stream("14b")
    assert step(stream, residency=away).weights > 0.2 * step(stream).total_ms
    # Four ranks get all that their links carry; eight share what the host's memory gives.
    roomy = replace(table(), host_total_gb_s=1e6)
    for layout, shared in (("ulysses=4", False), ("ulysses=8", True)):
        slow, fast = (step(stream, layout, residency=away, table_=t).weights for t in (table(), roomy))
        assert (slow > 1.5 * fast) == shared
    shared = Residency(blocks=Blocks.SHARDED)
    assert step(make_job("14b", "480p"), "ulysses=4", residency=shared).weights == 0
    assert (
        step(make_job("14b", "480p"), "ulysses=4", residency=shared).sent_bytes
        > step(make_job("14b", "480p"), "ulysses=4").sent_bytes
    )


def test_slow_links_cost_more():
    job = make_job()
    assert step(job, "ulysses=4", link="pcie").ulysses > 4 * step(job, "ulysses=4").ulysses
    assert step(job, "cfg=2", link="pcie").total_ms == pytest.approx(step(job, "cfg=2").total_ms, rel=0.01)


def test_later_chunks_attend_more():
    job = make_stream()
    first, second, last = (step(job, window=index).attention for index in (0, 1, -1))
    assert second == pytest.approx(2 * first)
    assert last == pytest.approx(4 * first)  # 12 latent frames, not all 21


def test_overlap_hides_exchanges_by_collectives():
    job = make_job()
    hidden = replace(table(), exchange_overlap=1.0)
    assert step(job, "ring=4", table_=hidden).ring == 0
    assert step(job, "ring=4", table_=hidden).sent_bytes == step(job, "ring=4").sent_bytes
    assert step(job, "ulysses=4", table_=hidden).ulysses == step(job, "ulysses=4").ulysses > 0


def test_heads_go_through_shared_memory_where_that_was_measured():
    job, sent = make_job(), 75600 / 4 * 5120 * 2 * 3 / 4
    known = replace(table(), ulysses_ms={Link.NVLINK: Curve(((1e6, 0.1), (1e9, 0.1)))})
    assert step(job, "ulysses=4", table_=known).ulysses == pytest.approx(2 * job.facts.layers * 2 * 0.1)
    assert step(job, "ulysses=4", table_=known).relayout == 0
    unknown = step(job, "ulysses=4", table_=replace(table(), ulysses_ms={}))
    collective = (1 - table().exchange_overlap) * 4 * table().exchange_time(sent, Link.NVLINK)
    assert unknown.ulysses == pytest.approx(2 * job.facts.layers * collective)
    assert unknown.relayout > 0
    assert unknown.sent_bytes == step(job, "ulysses=4").sent_bytes == pytest.approx(2 * job.facts.layers * 4 * sent)
