"""What is chosen, and what is said of it."""

from dataclasses import replace
from itertools import pairwise

import pytest

from reelray.proto.chunking import Chunking
from reelray.proto.errors import InputError, UnsupportedError
from reelray.proto.layout import Layout
from reelray.proto.memory_rule import Commit, MemoryRule, Placement
from reelray.proto.patching import Patching
from reelray.proto.recipe import Guidance, Recipe, Schedule, Solver
from reelray.proto.residency import Blocks, Encoder, Residency
from reelray.scheduler.plan.choice import DEDICATION_GAIN, TIE, make_plan, plan_layout
from reelray.scheduler.plan.explain import explain
from reelray.scheduler.plan.legality import check_layout, list_lanes
from reelray.scheduler.plan.memory_use import kept_bytes
from reelray.scheduler.plan.prediction import predict
from reelray.scheduler.steps import plan_steps
from tests.support.planning import GIB, make_job, make_machine, make_setting, make_stream, table


def planned(job, gpus=1, gib=139, link="nvlink"):
    plan = make_plan(job, make_machine(gpus, gib, link), table())
    return plan, explain(plan, table())


@pytest.mark.parametrize(
    ("gpus", "guided", "layout"),
    [(1, True, "ulysses=1"), (2, True, "cfg=2"), (4, True, "cfg=2,ulysses=2"), (4, False, "ulysses=4"),
     (8, True, "ulysses=8")],
)  # fmt: skip
def test_the_large_model_on_large_gpus(gpus, guided, layout):
    plan, said = planned(make_job(guided=guided), gpus)
    assert str(plan.chosen.layout) == layout
    assert plan.chosen.residency == Residency()
    assert plan.chosen.decode_ranks == 0
    assert said.startswith(f"{layout} makes a clip in ")
    assert "Weights are" not in said


@pytest.mark.parametrize(
    ("gpus", "gib", "link", "blocks", "encoder"),
    [
        (1, 24, "none", Blocks.OFFLOADED, Encoder.RELEASED),
        (1, 48, "none", Blocks.RESIDENT, Encoder.RELEASED),
        (1, 139, "none", Blocks.RESIDENT, Encoder.RESIDENT),
        (2, 24, "pcie", Blocks.OFFLOADED, Encoder.RESIDENT),
        (2, 48, "pcie", Blocks.RESIDENT, Encoder.RESIDENT),
        (4, 24, "nvlink", Blocks.SHARDED, Encoder.RELEASED),
        (4, 48, "nvlink", Blocks.RESIDENT, Encoder.RESIDENT),
    ],
)
def test_weights_go_where_there_is_room(gpus, gib, link, blocks, encoder):
    plan, said = planned(make_job(), gpus, gib, link)
    assert (plan.chosen.residency.blocks, plan.chosen.residency.encoder) == (blocks, encoder)
    assert plan.chosen.fits
    if blocks is not Blocks.RESIDENT:
        assert f"Weights are {plan.chosen.residency}: all resident, a GPU would need " in said
        assert f"of {gib}.0 GiB" in said


def test_the_small_model_stays_whole_on_24_gib():
    plan, _ = planned(make_job("1.3b", "480p"), 1, 24)
    assert plan.chosen.residency == Residency()


def test_nothing_fits():
    plan, said = planned(make_job(), 1, 8)
    assert plan.chosen is None
    assert not plan.rows[0].fits
    assert said.startswith("Nothing fits: ulysses=1 with weights offloaded, encoder released needs least, ")
    assert "of 8.0 GiB per GPU" in said


@pytest.mark.parametrize("link", ["nvlink", "pcie", "none"])
@pytest.mark.parametrize("job", [make_job(), make_job(guided=False), make_job("1.3b", "480p"), make_stream()])
def test_more_gpus_are_never_slower(job, link):
    plans = [planned(job, gpus, 139, link)[0] for gpus in (1, 2, 3, 4, 6, 8)]
    clip_s = [min(row.clip_s for row in plan.placements) for plan in plans]
    for fewer, more in pairwise(clip_s):
        assert more <= fewer * (1 + TIE)


@pytest.mark.parametrize("gpus", [1, 2, 3, 5, 8])
def test_the_chosen_is_the_fastest_that_fits_but_for_ties(gpus):
    plan, _ = planned(make_job("1.3b", "480p"), gpus, 24, "pcie")
    fastest = min(row.clip_s for row in plan.rows if row.fits and row.exact)
    assert fastest <= plan.chosen.clip_s <= fastest * (1 + TIE)
    assert plan.chosen in plan.rows
    assert [row.fits for row in plan.rows] == sorted((row.fits for row in plan.rows), reverse=True)


def test_less_memory_is_never_faster():
    times = [planned(make_stream("14b"), 2, gib)[0].chosen.clip_s for gib in (139, 80, 48, 32, 24)]
    assert times == sorted(times)
    assert times[-1] > 1.05 * times[0]


def test_fifty_steps_do_not_deserve_a_decode_gpu():
    plan, said = planned(make_job(), 4)
    shared, alone, two = plan.placements
    assert (shared.decode_ranks, alone.decode_ranks, two.decode_ranks) == (0, 1, 2)
    assert shared.clips_per_hour > 1.2 * alone.clips_per_hour
    assert "Decode runs on the GPUs that denoise: " in said
    assert "on a GPU of its own; decode is 0.1% of the work" in said


def test_a_few_step_stream_deserves_decode_gpus():
    plan, said = planned(make_stream(), 4)
    assert plan.chosen.decode_ranks == 2
    assert plan.chosen.layout.ranks <= 2
    assert plan.chosen.clips_per_hour > (1 + DEDICATION_GAIN) * plan.placements[0].clips_per_hour
    assert "Decode runs on 2 GPUs of its own: " in said
    assert all(row.decode_ranks == 2 for row in plan.rows)


def test_streams_overlap_decode_with_the_next_chunk():
    plan, _ = planned(make_stream(), 4)
    row = plan.chosen
    assert row.clip_s < row.text_s + row.denoise_s + row.decode_s
    whole = next(p for p in planned(make_job("1.3b", "480p", steps=2, guided=False), 4)[0].placements if p.decode_ranks)
    assert whole.clip_s == pytest.approx(whole.text_s + whole.denoise_s + whole.decode_s)


def test_lanes_multiply_throughput_not_speed():
    job = make_job("1.3b", "480p")
    one = plan_layout(job, make_machine(4), table(), Layout()).chosen
    four = plan_layout(job, make_machine(4), table(), Layout(replica=4)).chosen
    assert four.clip_s == one.clip_s
    assert four.clips_per_hour == pytest.approx(4 * one.clips_per_hour)


def test_decode_gpus_follow_as_many_lanes_as_they_can():
    # A lane of one GPU takes 1.7 s, decode on its own 0.58 s: two lanes per decode GPU.
    slow = predict(make_stream(steps=5), make_machine(8), table(), Layout(), Residency(), decode_ranks=1)
    assert (slow.layout.replica, slow.engines) == (2, 2)
    assert slow.interval_s == pytest.approx((slow.text_s + slow.denoise_s) / 4)
    fast = predict(make_stream(steps=1), make_machine(8), table(), Layout(ulysses=2), Residency(), decode_ranks=2)
    assert (fast.layout.replica, fast.engines) == (1, 2)
    assert fast.interval_s == pytest.approx(fast.decode_s / 2)


def test_what_is_not_there_is_copied_for_every_clip():
    rate = table().host_gb_s * 1e9
    job, copy_s = make_job("14b", "480p"), 2 * 5_680_910_336 / rate
    stays, released, offloaded = (
        predict(job, make_machine(1, 139), table(), Layout(), residency).text_s
        for residency in (Residency(), Residency(encoder=Encoder.RELEASED), Residency(blocks=Blocks.OFFLOADED))
    )
    assert released == pytest.approx(stays + copy_s)
    assert offloaded == pytest.approx(stays + 2 * job.facts.parameters / rate)


def test_gpus_that_only_decode_must_have_room_too():
    small = Residency(blocks=Blocks.OFFLOADED, encoder=Encoder.RELEASED)
    row = predict(make_job(), make_machine(8, 16), table(), Layout(ulysses=4), small, decode_ranks=1)
    assert row.memory.peak_bytes < 16 * GIB < row.peak_bytes
    assert not row.fits


def test_what_does_not_fit_in_any_way_is_counted():
    _, said = planned(make_job(), 2, 18, "pcie")
    assert "1 of 5 layouts cannot fit: ulysses=1 needs 19.9 GiB even with weights offloaded, encoder released." in said


def test_a_slower_clip_for_more_of_them_is_told():
    plan, said = planned(make_job("1.3b", "480p", steps=4, guided=False), 8)
    assert plan.chosen.clip_s > plan.placements[0].clip_s
    assert said.endswith(f"One clip alone would take {plan.placements[0].clip_s:.3g} s there.")


def test_patches_are_shown_over_slow_links_and_never_chosen():
    for link, shown in (("nvlink", False), ("pcie", True), ("none", False)):
        plan, said = planned(make_job(), 4, 139, link)
        assert any(not row.exact for row in plan.rows) == shown
        assert all(row.exact for row in (plan.chosen, *plan.placements))
    plan, said = planned(make_job(), 4, 139, "pcie")
    patched = [row for row in plan.rows if not row.exact]
    assert {str(row.layout) for row in patched} == {"replica=2,pipe=2", "pipe=3", "pipe=4", "cfg=2,pipe=2"}
    assert all(row.patching.exact_steps == 4 and row.residency == Residency() for row in patched)
    assert not any(not row.exact for row in planned(make_stream(), 4, 139, "pcie")[0].rows)
    plan, said = planned(make_job("14b", "480p"), 4, 139, "pcie")
    best = min((row for row in plan.rows if not row.exact), key=lambda row: row.clip_s)
    assert best.clip_s < plan.chosen.clip_s
    assert f"Only approximately, {best.layout} would make it in " in said
    assert f"ask for --layout {best.layout} --patches {best.patching.patches} to have it so." in said


def test_patches_are_taken_where_they_are_asked_for():
    wish = Patching(patches=4, exact_steps=10)
    plan = plan_layout(make_job(), make_machine(2), table(), Layout(pipe=2), patching=wish)
    exact = plan_layout(make_job(), make_machine(2), table(), Layout(pipe=2))
    assert plan.chosen.patching == wish
    # Two branches of four patches and one turn to fill the line; two branches and one without.
    assert plan.chosen.step.total_ms == pytest.approx(
        (0.2 + 0.8 * (9 / 8) / (3 / 2)) * exact.chosen.step.total_ms, rel=0.02
    )
    assert "approximate after the first 10 steps: 4 patches, keys one step old" in explain(plan, table())
    for layout, patching, words in (
        (Layout(ulysses=2), wish, "does not split the layers"),
        (Layout(pipe=2, ulysses=2), wish, "splits the tokens"),
        (Layout(pipe=2), Patching(patches=1), "patches is 1; it must be at least 2"),
        (Layout(pipe=2), Patching(patches=4000), "a latent frame of this size has 3600 tokens"),
        (Layout(pipe=2), Patching(patches=4, exact_steps=50), "exact steps are 50 of 50 steps"),
    ):
        with pytest.raises(InputError, match=words):
            plan_layout(make_job(), make_machine(4), table(), layout, patching=patching)
    with pytest.raises(InputError, match="chunk by chunk"):
        plan_layout(
            make_stream(memory=None),
            make_machine(2),
            table(),
            Layout(pipe=2),
            patching=Patching(patches=2, exact_steps=1),
        )


def test_a_layout_can_be_forced():
    plan = plan_layout(make_job(), make_machine(4), table(), Layout(ring=4))
    assert [row.layout for row in plan.rows] == [Layout(ring=4)]
    assert plan.chosen.layout == Layout(ring=4)
    with pytest.raises(InputError, match="needs 8 GPUs"):
        plan_layout(make_job(), make_machine(4), table(), Layout(ring=8))


def test_bytes_that_do_not_fit_are_told_of_a_forced_layout():
    plan = plan_layout(make_job(), make_machine(2, 8), table(), Layout(ulysses=2))
    assert plan.chosen is None
    assert "Nothing fits: ulysses=2" in explain(plan, table())


def test_streams_that_remember_split_no_layers_and_take_a_clean_pass():
    stream = make_stream(steps=4, memory=9)
    clean = replace(stream, memory=replace(stream.memory, commit=Commit.CLEAN))
    machine = make_machine(4)
    lanes = list(list_lanes(stream, machine))
    assert {lane.pipe for lane in lanes} == {1}
    assert {lane.ring for lane in lanes} == {1, 2, 3, 4}
    with pytest.raises(UnsupportedError, match="take cfg, ulysses and ring"):
        check_layout(Layout(pipe=2), stream, machine)
    assert (stream.forwards, clean.forwards, clean.clean_passes) == (28, 34, 6)
    short, long = (predict(job, machine, table(), Layout(ulysses=4), Residency()).denoise_s for job in (stream, clean))
    assert 1 + 6 / 28 * 0.8 < long / short < 1 + 6 / 28 * 1.2
    alone = make_stream(memory=None)
    assert all(window.attended == window.tokens for window in alone.windows)
    assert [window.attended // 1560 for window in clean.windows] == [3, 6, 9, 9, 9, 9, 9]


def test_chunks_that_share_forwards_are_counted_as_the_engine_counts_them():
    """Seven chunks of three latent frames: eleven windows of up to five, and six clean passes."""
    rule = MemoryRule(local=18, sink=3, placement=Placement.ANCHORED)
    stream = replace(make_stream(steps=5), chunking=Chunking(latent_frames=3, stagger=1), memory=rule)
    assert [window.tokens // 1560 for window in stream.windows] == [3, 6, 9, 12, 15, 15, 15, 12, 9, 6, 3]
    assert [window.attended // 1560 for window in stream.windows] == [3, 6, 9, 12, 15, 18, *[21] * 5]
    assert (stream.forwards, stream.clean_passes) == (17, 6)
    recipe = Recipe(
        name="x",
        schedule=Schedule(solver=Solver.X0_RENOISE, timesteps=(1000.0, 800.0, 600.0, 400.0, 200.0)),
        guidance=Guidance(scale=1.0),
        chunking=stream.chunking,
        memory=rule,
    )
    assert stream.forwards == len(plan_steps(recipe, stream.chunks))
    # 24 frames are held: the sink, eighteen that a clean pass attends, and three that are being remembered. Beside them
    # lie what a window attends at most, what one chunk leaves, and the text.
    long = replace(stream, frames=121)
    frame_bytes = 2 * 30 * 1560 * 1536 * 2
    assert kept_bytes(make_setting(long)) / frame_bytes == pytest.approx(24 + 21 + 3 + 512 / 1560)


def test_rounds_are_counted_as_the_engine_counts_them():
    chunking = Chunking(latent_frames=3, stagger=2, round_latent_frames=9, overlap=3, overlap_timestep=20.0)
    stream = replace(make_stream(steps=4, memory=None), chunking=chunking, guided_steps=4)
    recipe = Recipe(name="x", schedule=Schedule(steps=4), guidance=Guidance(scale=3.0), chunking=chunking)
    assert stream.forwards == 2 * len(plan_steps(recipe, stream.chunks))
    assert {window.tokens // 1560 for window in stream.windows} == {9}
    with pytest.raises(UnsupportedError, match="chunks in flight"):
        check_layout(Layout(pipe=2), stream, make_machine(4))
