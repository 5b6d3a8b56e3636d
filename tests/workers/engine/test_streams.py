"""Streams through a rank: what chunks remember, how it is come by again, and that nothing stays behind."""

from dataclasses import replace

import pytest
import torch

from reelray.cluster.local_engine import LocalEngine
from reelray.proto.errors import UnsupportedError
from reelray.proto.events import Done
from reelray.proto.layout import Layout
from reelray.proto.recipe import Guidance
from reelray.proto.step_plan import StepPlan
from reelray.proto.storage import Storage
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine import memory_rooms
from reelray.workers.engine.memory_rooms import MemoryRooms
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.station import Station
from reelray.workers.models.registry import open_checkpoint
from tests.support.interrupted import interrupted
from tests.support.pages_left import assert_nothing_stays
from tests.support.plain_stream import stream_plainly
from tests.support.render_on import render_on
from tests.support.stream_cases import CASES, FEW, request_of
from tests.support.watched_model import Watched


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cpu")


@pytest.mark.parametrize("case", CASES)
def test_a_stream_is_what_a_plain_loop_makes(plain, case):
    """Six chunks, of which the last attends a window that has overflowed three times."""
    watched, request = Watched(plain), request_of(case)
    rank = Rank(watched)
    render_on(rank, request)
    _, memory, rule, _ = CASES[case]
    wanted = stream_plainly(plain, request, rule, commit_timestep=memory.commit_timestep)
    assert (torch.cat(watched.latents, 2) - wanted).abs().max() < 1e-4 * wanted.abs().max()
    rank.execute(StepPlan(sequence=rank._sequence, generation=0, releases=(request.request_id,)))
    assert_nothing_stays(rank)


def test_memory_changes_the_video(plain):
    """Else the test above would compare chunks that stand alone."""
    alone, together = Watched(plain), Watched(plain)
    request = request_of("sink and latest")
    render_on(Rank(together), request)
    render_on(Rank(alone), replace(request, recipe=replace(request.recipe, memory=None)))
    gaps = [(a - b).abs().max() for a, b in zip(alone.latents, together.latents, strict=True)]
    assert gaps[0] < 1e-5  # what remembers merges the padding of texts, a small window alone does not
    assert all(gap > 1e-2 for gap in gaps[2:])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("steps", [1, 4, 8, 11])
def test_a_stream_goes_on_from_any_commit_bit_by_bit(model, case, steps):
    """The ranks that remembered are gone; new ones come to the same memory by the same forwards."""
    request = request_of(case)
    assert interrupted(model, request, after=steps) == render_on(Rank(model), request)


def test_frames_leave_before_the_clean_pass(model):
    core, rank = EngineCore(EngineLimits()), Rank(model)
    request = request_of("sink and latest", latent_frames=4)
    core.submit(request, model.facts)
    plans = []
    while (plan := core.next_step(0.0)) is not None:
        report = rank.execute(plan)
        core.report(report)
        plans.append(
            (*("clean" if w.is_clean_pass else "step" for w in plan.windows), *("decode" for _ in plan.decodes))
        )
        for frames in report.frames:
            core.acknowledge(request.request_id, frames.count)
    assert plans[1:-1] == [("step",), ("step",), ("decode",), ("clean",), ("step",), ("step",), ("decode",)]


def test_guidance_that_ends_before_the_last_step_remembers_both_branches(plain):
    request = request_of("last step")
    recipe = replace(request.recipe, schedule=FEW, guidance=Guidance(per_step=(3.0, 1.0)))
    request = replace(request, recipe=recipe)
    rank, attended = Rank(plain), []
    core = EngineCore(EngineLimits())
    core.submit(request, plain.facts)
    while (plan := core.next_step(0.0)) is not None:
        report = rank.execute(plan)
        core.report(report)
        attended += [
            [len(one.memory.regions.attended) for one in held.forwards._memory._memories]
            for held in rank._held.values()
        ]
        for frames in report.frames:
            core.acknowledge(request.request_id, frames.count)
    assert all(one == other for one, other in attended)
    assert max(one for one, _ in attended) == 4
    whole = render_on(Rank(plain), request)
    for steps in (3, 6, 9):
        assert interrupted(plain, request, after=steps) == whole


def test_layouts_that_share_heads_in_another_way_have_room_too(model, monkeypatch):
    """What counts as free on a GPU shrinks by what the first room takes."""
    frame_bytes = memory_rooms.PAGE_ROWS * model.key_shape(model.heads).token_bytes
    monkeypatch.setattr(memory_rooms, "free_bytes", lambda _device: 24 * frame_bytes)
    monkeypatch.setattr(memory_rooms, "SHARE", 1.0)
    ways = [(Layout(ring=2), 1), (Layout(ulysses=2), 2)]
    stations = [Station(layout=layout, heads_of=(0, ranks)) for layout, ranks in ways]
    rooms = MemoryRooms(model, stations)
    request = request_of("sink and latest")
    for station in stations:
        assert rooms.open(request, station) is not None
    assert [room.pool.pages for room in rooms._rooms.values()] == [12, 24]  # of all heads, and of half of them
    alike = [Station(layout=layout) for layout in (Layout(ring=2), Layout(replica=2))]  # and the same heads
    rooms = MemoryRooms(model, [*alike, Station(layout=Layout(ring=4), remembers=False)])
    for station in alike:
        assert rooms.open(request, station) is not None
    assert [room.pool.pages for room in rooms._rooms.values()] == [12, 12]


def test_streams_side_by_side_do_not_disturb_each_other(model):
    alone = {
        name: render_on(Rank(model), request_of("sink and latest", name, seed=seed))
        for name, seed in (("a", 1), ("b", 2))
    }
    core, rank = EngineCore(EngineLimits()), Rank(model)
    for name, seed in (("a", 1), ("b", 2)):
        core.submit(request_of("sink and latest", name, seed=seed), model.facts)
    videos = {"a": b"", "b": b""}
    while (plan := core.next_step(0.0)) is not None:
        report = rank.execute(plan)
        core.report(report)
        for frames in report.frames:
            videos[frames.request_id] += frames.data
            core.acknowledge(frames.request_id, frames.count)
    assert videos == alone
    assert_nothing_stays(rank)


@pytest.mark.parametrize("storage", [Storage.FP8, Storage.INT8])
def test_a_stream_in_eight_bits_is_near_the_exact_one_and_goes_on_bit_by_bit(plain, storage):
    exact, kept = Watched(plain), Watched(plain)
    request = request_of("sink and latest")
    render_on(Rank(exact), request)
    rule = replace(request.recipe.memory, storage=storage)
    request = replace(request, recipe=replace(request.recipe, memory=rule))
    whole = render_on(Rank(kept), request)
    wanted, found = torch.cat(exact.latents, 2), torch.cat(kept.latents, 2)
    assert torch.equal(wanted[:, :, :2], found[:, :, :2])  # the first chunk attends nothing
    gap = (found - wanted).abs().max() / wanted.abs().max()
    assert 1e-5 < gap < (0.05 if storage is Storage.FP8 else 0.01)
    for steps in (4, 8, 11):
        assert interrupted(plain, request, after=steps) == whole


def test_ranks_that_split_layers_remember_nothing_and_say_so(model):
    request = request_of("sink and latest")
    core = EngineCore(EngineLimits(), layouts=(Layout(pipe=2),))
    with pytest.raises(UnsupportedError, match="ulysses"):
        core.submit(request, model.facts)


def test_the_summary_tells_denoise_steps_from_what_is_only_remembered(model):
    with LocalEngine.of_model(model) as engine:
        (done,) = [event for event in engine.render(request_of("sink and latest")) if isinstance(event, Done)]
    assert (done.summary.steps, done.summary.forwards) == (6 * 2, 6 * 2 + 5)
    assert done.summary.stage_s["remember"] > 0
