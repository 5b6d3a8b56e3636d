"""Steps that are not waited for, and pieces that are decoded beside the windows that follow them."""

from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from reelray.proto.errors import InputError, ReelrayError
from reelray.proto.events import Stage
from reelray.proto.snapshot import SnapshotKind
from reelray.proto.step_plan import StepPlan
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.run_ahead import RunAhead
from reelray.workers.engine.station import _exchanges_by_memory
from reelray.workers.engine.step_record import StepRecord
from reelray.workers.models.registry import open_checkpoint
from tests.support.pages_left import assert_nothing_stays
from tests.support.render_on import render_on
from tests.support.slow_device import SlowDevice
from tests.support.stream_cases import CASES, request_of


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cpu")


@pytest.fixture(scope="module")
def gpu_model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cuda")


class Played:
    """What comes of requests on a rank whose device is behind.

    Args:
        rank: The rank.
        requests: Queued one after the other.
        limits: Of the core.
        credit: Frames that a client takes back at once; None means all.
        look: Called with every plan before it is carried out.
    """

    def __init__(self, rank, requests, limits=None, look=lambda _core, _plan: None):
        self.core, self.rank = EngineCore(limits or EngineLimits()), rank
        self.videos = {request.request_id: b"" for request in requests}
        self.plans, self.reports, self.outcomes = [], [], []
        for request in requests:
            self.core.submit(request, rank.describe().facts)
        while (plan := self.core.next_step(0.0)) is not None:
            assert plan.sequence < 500, "the core waits for a piece that has come"
            look(self.core, plan)
            self.take(plan, rank.execute(plan))

    def take(self, plan, report):
        outcome = self.core.report(report)
        self.plans.append(plan)
        self.reports.append(report)
        self.outcomes.append(outcome)
        for frames in report.frames:
            video = self.videos.get(frames.request_id, b"")
            assert len(video) == frames.first_frame * frames.height * frames.width * 3, "frames come in their order"
            self.videos[frames.request_id] = video + bytes(frames.data)
            self.core.acknowledge(frames.request_id, frames.count)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("asks", [0, 1, 4, 1000])
def test_a_stream_on_a_device_that_is_behind_is_the_same(model, case, asks):
    request, device = request_of(case), SlowDevice(asks)
    rank = Rank(model, new_event=device)
    played = Played(rank, [request])
    assert played.videos[request.request_id] == render_on(Rank(model), request)
    late = [name for report in played.reports for name in report.late]
    arrived = [name for report in played.reports for name in report.arrived]
    assert late == arrived
    assert bool(late) == (asks > 0)  # asked at the end of its own plan, a piece is there or it is not
    assert [name for outcome in played.outcomes for name in outcome.finished] == [request.request_id]
    assert_nothing_stays(rank)


def test_a_clean_pass_goes_with_the_decode_once_a_client_has_frames(model):
    played = Played(Rank(model, new_event=SlowDevice()), [request_of("sink and latest", latent_frames=6)])
    said = [
        (*("clean" if w.is_clean_pass else "step" for w in plan.windows), *("decode" for _ in plan.decodes))
        for plan in played.plans
    ]
    assert said[1:-1] == [
        ("step",), ("step",), ("decode",),  # the first frames wait for nothing
        ("clean",), ("step",), ("step",),
        ("clean", "decode"), ("step",), ("step",),
        ("decode",),
    ]  # fmt: skip


def test_every_step_is_told_once_and_costs_what_the_device_says(model):
    request = request_of("sink and latest", latent_frames=6)
    plain = Rank(model)
    core, wanted = EngineCore(EngineLimits()), []
    core.submit(request, model.facts)
    while (plan := core.next_step(0.0)) is not None:
        report = plain.execute(plan)
        core.report(report)
        wanted += [(cost.stage, cost.forwards) for cost in report.costs]
        for frames in report.frames:
            core.acknowledge(frames.request_id, frames.count)
    played = Played(Rank(model, new_event=SlowDevice(3)), [request])
    costs = [cost for report in played.reports for cost in report.costs]
    for stage in Stage:
        assert [c.forwards for c in costs if c.stage is stage] == [n for what, n in wanted if what is stage]
    # The device of this test counts a second for each event, so between two marks that follow each other lies one.
    assert {cost.seconds for cost in costs if cost.stage is Stage.REMEMBER} <= {1.0, 3.0}


def test_only_one_step_is_under_way_while_the_next_is_told(model):
    device, ahead = SlowDevice(1000), []
    rank = Rank(model, new_event=device)
    Played(rank, [request_of("last step")], look=lambda _core, _plan: ahead.append(len(rank._work._ahead._told)))
    assert max(ahead) == 2  # the one that was just told, and the one before it
    assert device.waits > 5


def test_whoever_watches_a_rank_sees_that_each_step_is_done():
    device, seen = SlowDevice(1000), []
    ahead = RunAhead(device, lambda: seen.append(device.waits))
    for _ in range(2):
        ahead.tell("a", Stage.DENOISE, ahead.mark(), forwards=1, counts=True)
    ahead.settle(StepRecord(StepPlan(sequence=0, generation=0)))
    assert seen == [1, 2]


@pytest.mark.parametrize("when", range(4, 22, 3))
def test_what_is_put_down_or_forked_amid_a_late_piece_goes_on_as_it_was(model, when):
    request, asked = request_of("sink and latest"), []

    def look(core, plan):
        if plan.sequence == when:
            core.snapshot(request.request_id, SnapshotKind.EXACT)
            asked.append(plan)

    rank = Rank(model, new_event=SlowDevice(1000))
    played = Played(rank, [request], look=look)
    whole = render_on(Rank(model), request)
    assert asked
    assert played.videos[request.request_id] == whole
    (snapshot,) = [one for outcome in played.outcomes for one in outcome.snapshots]
    core, again, rest = EngineCore(EngineLimits()), Rank(model), b""
    core.submit(snapshot.request, model.facts, snapshot)
    while (plan := core.next_step(0.0)) is not None:
        report = again.execute(plan)
        core.report(report)
        for frames in report.frames:
            rest += bytes(frames.data)
            core.acknowledge(frames.request_id, frames.count)
    assert rest
    assert whole.endswith(rest)
    assert len(whole) - len(rest) == snapshot.frame * request.width * request.height * 3


@pytest.mark.parametrize("when", range(4, 22, 3))
def test_a_stream_cancelled_amid_a_late_piece_leaves_nothing(model, when):
    request = request_of("sink and latest")

    def look(core, plan):
        if plan.sequence == when:
            core.cancel(request.request_id)

    rank = Rank(model, new_event=SlowDevice(1000))
    played = Played(rank, [request], look=look)
    assert played.core.phase(request.request_id) is None
    assert_nothing_stays(rank)
    assert not rank._work._beside._pieces


@pytest.mark.parametrize("when", range(8, 16))
def test_who_takes_the_name_of_a_stream_gets_no_late_piece_of_it(model, when):
    old, other = request_of("sink and latest"), replace(request_of("last step"), request_id="other", seed=5)
    new, began = replace(old, seed=7), []
    core, rank, video = EngineCore(EngineLimits()), Rank(model, new_event=SlowDevice(1000)), b""

    def try_again():
        if began or core.cancel(old.request_id):
            return
        with suppress(InputError):
            core.submit(new, rank.describe().facts)
            began.append(new)

    for request in (old, other):
        core.submit(request, rank.describe().facts)
    while (plan := core.next_step(0.0)) is not None:
        assert plan.sequence < 500
        if plan.sequence >= when:
            try_again()
        named = bool(began)
        report = rank.execute(plan)
        core.report(report)
        for frames in report.frames:
            video += bytes(frames.data) if named and frames.request_id == new.request_id else b""
            core.acknowledge(frames.request_id, frames.count)
    assert began
    assert video == render_on(Rank(model), new)


@pytest.mark.parametrize("asks", [0, 1000])
@pytest.mark.parametrize("latent_frames", [2, 4])
def test_what_a_stream_cost_is_told_before_it_is_finished(model, asks, latent_frames):
    short = request_of("last step", "short", latent_frames=latent_frames, seed=5)
    played = Played(Rank(model, new_event=SlowDevice(asks)), [request_of("sink and latest"), short])
    (ended,) = [i for i, outcome in enumerate(played.outcomes) if "short" in outcome.finished]
    told = [i for i, report in enumerate(played.reports) for cost in report.costs if cost.request_id == "short"]
    assert len(told) > latent_frames
    assert max(told) <= ended


def test_a_piece_that_could_not_be_begun_is_nobodys_late_piece(model, monkeypatch):
    request, real, calls = request_of("sink and latest"), model.decode, []

    def decode(*inputs, **options):
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("no memory for it")
        return real(*inputs, **options)

    monkeypatch.setattr(model, "decode", decode)
    rank = Rank(model, new_event=SlowDevice(1000))
    played = Played(rank, [request])
    assert [failure.request_id for report in played.reports for failure in report.failures] == [request.request_id]
    assert not rank._work._late
    assert not [name for report in played.reports for name in (*report.late, *report.arrived)]


@pytest.mark.parametrize("lands", [False, True])
def test_pieces_of_two_streams_come_late_where_there_is_room_for_both(model, lands):
    requests = [request_of("sink and latest"), replace(request_of("last step"), request_id="other", seed=5)]
    played = Played(Rank(model, new_event=SlowDevice(1000), frames_land=lands), requests)
    for request in requests:
        assert played.videos[request.request_id] == render_on(Rank(model), request)
    both = [r for r in played.reports if r.sequence < max(p.sequence for p in played.plans if len(p.windows) > 0) // 2]
    assert any(report.late for report in both) != lands


def test_values_that_are_not_finite_end_the_stream_before_a_frame_of_them_is_seen(model, monkeypatch):
    request, real, calls = request_of("sink and latest"), model.denoise, []

    def denoise(*inputs, **options):
        calls.append(1)
        return real(*inputs, **options) * (float("nan") if len(calls) == 5 else 1.0)

    monkeypatch.setattr(model, "denoise", denoise)
    rank = Rank(model, new_event=SlowDevice(1000))
    played = Played(rank, [request])
    failures = [failure for report in played.reports for failure in report.failures]
    assert isinstance(failures[0].error, ReelrayError)
    assert "not finite" in failures[0].error.message
    monkeypatch.undo()
    whole = render_on(Rank(model), request)
    assert played.videos[request.request_id]
    assert whole.startswith(played.videos[request.request_id])
    assert len(played.videos[request.request_id]) < len(whole) // 2


@pytest.mark.parametrize("asks", range(1, 6))
def test_a_window_that_is_told_ahead_does_not_depend_on_when_a_late_piece_is_there(model, monkeypatch, asks):
    real, calls, before = model.denoise, [], []

    def denoise(*inputs, **options):
        calls.append(1)
        return real(*inputs, **options) * (float("nan") if len(calls) == 5 else 1.0)

    monkeypatch.setattr(model, "denoise", denoise)
    rank = Rank(model, new_event=SlowDevice(asks))
    played = Played(rank, [request_of("sink and latest")], look=lambda _core, _plan: before.append(len(calls)))
    moved = [after - start for start, after in pairwise([*before, len(calls)])]
    assert any(report.failures for report in played.reports)
    assert [count > 0 for count in moved] == [bool(plan.windows) for plan in played.plans]


@pytest.mark.parametrize(
    ("changes", "beside"),
    [({}, True), ({"weights": "a group"}, False), ({"peer_memory": None}, False), ({"ranks": (0, 1, 2, 3)}, False)],
)
def test_nothing_is_decoded_beside_forwards_that_wait_for_a_collective(changes, beside):
    lane = {"ranks": (0, 1), "weights": None, "peer_memory": "memory of two"} | changes
    ulysses = SimpleNamespace(size=2, peer_memory=lane.pop("peer_memory"))
    assert _exchanges_by_memory(SimpleNamespace(ulysses=ulysses, **lane)) == beside


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_that_is_not_waited_for_makes_the_same_frames(gpu_model, monkeypatch, case):
    request = request_of(case)
    monkeypatch.setattr("reelray.workers.engine.memory_rooms.free_bytes", lambda _device: 64_000_000)
    played = Played(Rank(gpu_model), [request])
    monkeypatch.setattr("reelray.workers.engine.rank.find_events", lambda _device: None)
    assert played.videos[request.request_id] == Played(Rank(gpu_model), [request]).videos[request.request_id]
    assert torch.cuda.is_available()
