"""Streams through a rank: what chunks remember, how it is come by again, and that nothing stays behind."""

from dataclasses import replace

import pytest
import torch

from reelray.cluster.local_engine import LocalEngine
from reelray.proto.chunking import Chunking
from reelray.proto.errors import ResourceError, UnsupportedError
from reelray.proto.events import Done
from reelray.proto.layout import Layout
from reelray.proto.memory_rule import Commit, MemoryRule, Placement, PromptSwitch, Sink
from reelray.proto.recipe import Guidance, Recipe, Schedule, Solver
from reelray.proto.request import PromptChange, RequestId
from reelray.proto.step_plan import StepPlan
from reelray.proto.storage import Storage
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine import memory_rooms
from reelray.workers.engine.memory_rooms import MemoryRooms
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.resting import RestingDecoder
from reelray.workers.engine.station import Station
from reelray.workers.memory.entries import Frame
from reelray.workers.memory.pool import PagePool
from reelray.workers.models.registry import open_checkpoint
from tests.support.interrupted import interrupted
from tests.support.latent_pictures import LatentPictures
from tests.support.memory_oracle import latest, moving_sink, pinned
from tests.support.pages_left import assert_nothing_stays
from tests.support.plain_stream import stream_plainly
from tests.support.render_on import render_on
from tests.support.requests import make_request
from tests.support.watched_model import Watched

FEW = Schedule(solver=Solver.X0_RENOISE, timesteps=(1000.0, 500.0), shift=5.0)
SLANTED = Schedule(solver=Solver.X0_RENOISE, timesteps=(1000.0, 357.14), first_chunks=((1000.0, 933.0, 357.0),))
CASES = {
    "sink and latest": (
        FEW,
        MemoryRule(local=4, sink=1, commit_timestep=20.0),
        latest(4, sink=1, chunk=2),
        Guidance(scale=1.0),
    ),
    "last step": (
        SLANTED,
        MemoryRule(local=4, sink=2, commit=Commit.LAST_STEP),
        latest(4, sink=2, chunk=2),
        Guidance(scale=1.0),
    ),
    "moving sink, guided": (
        FEW,
        MemoryRule(local=4, sink=2, sink_kind=Sink.MOVING, sink_kept=0.6, placement=Placement.RELATIVE),
        moving_sink(4, sink=2, chunk=2, kept=0.6),
        Guidance(scale=3.0),
    ),
}


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cpu")


@pytest.fixture(scope="module")
def plain(model):
    """For what the decoder has no part in."""
    return LatentPictures(model)


def request_of(case, name="a", *, latent_frames=12, **changes):
    schedule, memory, _, guidance = CASES[case]
    recipe = Recipe(
        name="stream", schedule=schedule, guidance=guidance, chunking=Chunking(latent_frames=2), memory=memory
    )
    size = {"width": 48, "height": 32, "prompt": "a red circle", "latent_frames": latent_frames}
    return make_request(name, recipe=recipe, **(size | changes))


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


SWITCHED = {
    "recached, sink kept": (
        MemoryRule(local=4, sink=2, switch=PromptSwitch.RECACHE, switch_frames=6),
        latest(4, sink=2, chunk=2),
        {8: (4, 2)},
    ),
    "recached from the beginning": (
        MemoryRule(local=6, sink=2, switch=PromptSwitch.RECACHE, switch_frames=8),
        latest(6, sink=2, chunk=2),
        {8: (0, 0)},
    ),
    "recached, last step": (
        MemoryRule(local=4, sink=2, commit=Commit.LAST_STEP, switch=PromptSwitch.RECACHE, switch_frames=6),
        latest(4, sink=2, chunk=2),
        {8: (4, 2)},
    ),
    "flushed": (
        MemoryRule(local=6, sink=1, placement=Placement.RELATIVE, switch=PromptSwitch.FLUSH, switch_frames=1),
        latest(6, sink=1, chunk=2, relative=True, flushed=(8, 1)),
        None,
    ),
    "another scene pins its sink": (
        MemoryRule(local=6, sink=2, sink_kind=Sink.PINNED, scene_shift=8),
        pinned(6, sink=2, chunk=2, scenes=(8, 12), shift=8),
        None,
    ),
    "only the text": (MemoryRule(local=4, sink=1), latest(4, sink=1, chunk=2), None),
}


def switched_request(case):
    """The prompt changes in the middle of the fourth chunk, so the fifth is the first one that goes by the new one."""
    memory = SWITCHED[case][0]
    changes = [PromptChange(latent_frame=7, prompt="a blue star spins", cut=memory.knows_scenes)]
    if memory.knows_scenes:
        changes.append(PromptChange(latent_frame=12, prompt="a green square", cut=True))
    request = request_of("sink and latest", latent_frames=18 if memory.knows_scenes else 12)
    return replace(request, recipe=replace(request.recipe, memory=memory), changes=tuple(changes))


@pytest.mark.parametrize("case", SWITCHED)
def test_a_change_of_the_prompt_is_what_the_plain_loop_makes_of_it(plain, case):
    watched, request = Watched(plain), switched_request(case)
    rank = Rank(watched)
    render_on(rank, request)
    _, rule, recached = SWITCHED[case]
    wanted = stream_plainly(plain, request, rule, recached=recached)
    found = torch.cat(watched.latents, 2)
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
    unchanged = Watched(plain)
    render_on(Rank(unchanged), replace(request, changes=()))
    gap = (torch.cat(unchanged.latents, 2) - found).abs().amax((0, 1, 3, 4))
    assert (gap[:8] == 0).all()
    assert (gap[8:] > 1e-3).all()
    rank.execute(StepPlan(sequence=rank._sequence, generation=0, releases=(request.request_id,)))
    assert_nothing_stays(rank)


@pytest.mark.parametrize("case", SWITCHED)
def test_a_changed_stream_goes_on_from_any_commit_bit_by_bit(plain, case):
    request = switched_request(case)
    whole = render_on(Rank(plain), request)
    for steps in (9, 12, 13, 14, 15):
        assert interrupted(plain, request, after=steps) == whole, steps


def test_memory_changes_the_video(plain):
    """Else the test above would compare chunks that stand alone."""
    alone, together = Watched(plain), Watched(plain)
    request = request_of("sink and latest")
    render_on(Rank(together), request)
    render_on(Rank(alone), replace(request, recipe=replace(request.recipe, memory=None)))
    gaps = [(a - b).abs().max() for a, b in zip(alone.latents, together.latents, strict=True)]
    assert gaps[0] == 0
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


@pytest.mark.parametrize("call", [1, 2, 4])
def test_a_stream_that_fails_while_its_memory_is_laid_out_leaves_the_others_theirs(plain, monkeypatch, call):
    """One workspace serves both; b's memory is written over what was a's, but not all of it."""
    alone = render_on(Rank(plain), request_of("sink and latest", "a", seed=1))
    rank, core = Rank(plain), EngineCore(EngineLimits())
    for name, seed in (("a", 1), ("b", 2)):
        core.submit(request_of("sink and latest", name, seed=seed), plain.facts)
    lay_out, calls = PagePool.lay_out, []

    def lay_out_or_fail(pool, frames, tokens, to_L2SND, angles):
        if rank_works_on == ["b"]:
            calls.append(frames)
            if len(calls) == call:
                to_L2SND[:, 0].fill_(torch.nan)
                raise torch.OutOfMemoryError("no memory is left")
        lay_out(pool, frames, tokens, to_L2SND, angles)

    monkeypatch.setattr(PagePool, "lay_out", lay_out_or_fail)
    videos, failures, rank_works_on = {"a": b"", "b": b""}, set(), []
    while (plan := core.next_step(0.0)) is not None:
        rank_works_on[:] = [window.request_id for window in plan.windows]
        report = rank.execute(plan)
        core.report(report)
        failures |= {failure.request_id for failure in report.failures}
        for frames in report.frames:
            videos[frames.request_id] += frames.data
            core.acknowledge(frames.request_id, frames.count)
    assert failures == {"b"}
    assert videos["a"] == alone
    assert_nothing_stays(rank)


@pytest.mark.parametrize(
    ("case", "method", "call"),
    [("sink and latest", "take_in", 3), ("moving sink, guided", "take_in", 4), ("moving sink, guided", "writer", 3)],
)
def test_what_fails_in_the_middle_of_a_commit_gives_its_pages_back(plain, monkeypatch, case, method, call):
    """Frames are taken in, and folded into others."""
    rank, core = Rank(plain), EngineCore(EngineLimits())
    core.submit(request_of(case, "a"), plain.facts)
    whole, calls = getattr(PagePool, method), []

    def fail_late(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise torch.OutOfMemoryError("no memory is left")
        return whole(*arguments)

    monkeypatch.setattr(PagePool, method, fail_late)
    failed = False
    while (plan := core.next_step(0.0)) is not None:
        report = rank.execute(plan)
        core.report(report)
        failed = failed or bool(report.failures)
        for frames in report.frames:
            core.acknowledge(frames.request_id, frames.count)
    assert failed
    assert_nothing_stays(rank)


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


def test_cancelled_and_failed_streams_give_their_pages_back(model):
    rank, core = Rank(model), EngineCore(EngineLimits())
    core.submit(request_of("sink and latest", "a"), model.facts)
    core.submit(request_of("last step", "b"), model.facts)
    for _ in range(9):
        core.report(rank.execute(core.next_step(0.0)))
    core.cancel(RequestId("a"))
    held = rank._held[RequestId("b")]
    held._texts._prompts = []  # whatever breaks a forward
    while (plan := core.next_step(0.0)) is not None:
        report = rank.execute(plan)
        core.report(report)
    assert not rank._held
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


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("case", [*CASES, "recached, sink kept", "flushed"])
def test_a_stream_that_rests_after_every_step_is_the_same(tiny_t2v, model, monkeypatch, case, device):
    """Another one has its pages meanwhile; guidance has two memories, which rest and wake together."""
    model = model if device == "cpu" else open_checkpoint(tiny_t2v, device=device)
    request = request_of(case) if case in CASES else switched_request(case)
    monkeypatch.setattr(memory_rooms, "free_bytes", lambda _device: 64_000_000)
    core, rank, video = EngineCore(EngineLimits()), Rank(model), b""
    core.submit(request, model.facts)
    rests = decoders = 0
    while (plan := core.next_step(0.0)) is not None:
        for held in rank._held.values():
            held.prefetch()
            held.wake()
        report = rank.execute(plan)
        core.report(report)
        for held in rank._held.values():
            with torch.inference_mode():
                held.park()
                held.park()
                decoders += isinstance(held._decode_state, RestingDecoder)
                assert held._decode_state is None or not held._decode_state.parts.slots
                for room in rank._rooms._rooms.values():
                    assert room.arena.free == room.arena.unpromised == room.arena.pages
                    room.arena.transfers.last.wait()
                    room.arena.storage_PX.fill_(255)
            rests += 1
        for frames in report.frames:
            video += frames.data
            core.acknowledge(request.request_id, frames.count)
    assert rests > 12
    assert decoders > 6
    assert video == render_on(Rank(model), request)
    assert_nothing_stays(rank)
    assert all(room.host.free == room.host.pages for room in rank._rooms._rooms.values())


def test_both_memories_of_guidance_wake_or_neither(model, monkeypatch):
    frame_bytes = memory_rooms.PAGE_ROWS * model.key_shape(model.heads).token_bytes
    monkeypatch.setattr(memory_rooms, "free_bytes", lambda _device: 16 * frame_bytes)
    monkeypatch.setattr(memory_rooms, "SHARE", 1.0)
    rooms, station = MemoryRooms(model), Station()
    first = rooms.open(request_of("moving sink, guided"), station)
    (room,) = rooms._rooms.values()
    whole = room.arena.pages - room.arena.unpromised
    assert whole == 16  # two branches: seven frames, and a workspace
    first.park()
    second = rooms.open(request_of("sink and latest"), station)
    free = room.arena.unpromised
    assert free >= whole // 2
    with pytest.raises(ResourceError, match="not promised"):
        first.wake()
    assert room.arena.unpromised == free
    second.close()
    first.wake()
    assert room.arena.unpromised == 0
    for memory in first._memories:
        memory.memory._held[Frame(index=0)] = room.arena.take(1)
    monkeypatch.setattr(room.host, "pages", 1)
    with pytest.raises(ResourceError, match="host memory"):
        first.park()
    assert room.arena.unpromised == 0
    assert room.host.free == 1


def test_a_stream_that_does_not_fit_is_refused_and_others_go_on(model, monkeypatch):
    frame_bytes = memory_rooms.PAGE_ROWS * model.key_shape(model.heads).token_bytes  # six tokens take a page
    monkeypatch.setattr(memory_rooms, "free_bytes", lambda _device: 6 * frame_bytes)
    monkeypatch.setattr(memory_rooms, "SHARE", 1.0)
    rank, core = Rank(model), EngineCore(EngineLimits())
    core.submit(request_of("sink and latest", "a"), model.facts)
    core.submit(request_of("sink and latest", "b"), model.facts)
    failures, finished = {}, set()
    while (plan := core.next_step(0.0)) is not None:
        report = rank.execute(plan)
        outcome = core.report(report)
        failures |= {failure.request_id: failure.error for failure in report.failures}
        finished |= set(outcome.finished)
        for frames in report.frames:
            core.acknowledge(frames.request_id, frames.count)
    assert finished == {"a"}
    assert isinstance(failures[RequestId("b")], ResourceError)
    assert "not promised" in failures[RequestId("b")].message


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
