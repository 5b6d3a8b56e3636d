"""Streams that are paused give their room to others, and go on as if nothing had been."""

import random

import pytest

from reelray.proto.commit_parts import find_history
from reelray.proto.errors import InputError, ResourceError
from reelray.proto.layout import Layout, Place
from reelray.proto.session import Pause, Resume
from reelray.proto.snapshot import SnapshotKind
from reelray.proto.step_plan import Move, SnapshotStep, StepPlan
from reelray.scheduler.batching import Batching
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine import resting
from reelray.workers.engine.memory_rooms import MemoryRooms
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.station import Station
from reelray.workers.models.registry import open_checkpoint
from tests.support.latent_pictures import LatentPictures
from tests.support.live_cases import RULES, Drive, begins, live_request, rolling_request, run_whole, said
from tests.support.pages_left import assert_nothing_stays, free_pages
from tests.workers.engine.test_snapshots import bytes_of, put_down, take_up


@pytest.fixture
def model(tiny_t2v):
    return LatentPictures(open_checkpoint(tiny_t2v, device="cpu"))


def leave_room(model, *requests):
    """Have pages for these streams at once, and not for one more."""
    rooms, station = MemoryRooms(model), Station()
    for request in requests:
        assert rooms.open(request, station) is not None
    (room,) = rooms._rooms.values()
    model.page_bytes = (room.arena.pages - room.arena.unpromised) * room.arena.page_bytes


def pause_beside(model, request, other, steps):
    """A stream that is paused after some steps, and another one that has no room beside it."""
    leave_room(model, request)
    drive = Drive(model)
    drive.submit(request)
    pause_after(drive, steps)
    drive.submit(other)
    return drive


def pause_after(drive, steps):
    for _ in range(steps):
        drive.step()
    assert drive.core.tell("a", Pause()).paused
    drive.run()


@pytest.mark.parametrize("rule", [*RULES, "rolling"])
def test_another_stream_has_the_room_of_a_paused_one_meanwhile(model, rule):
    request = rolling_request() if rule == "rolling" else said(live_request(rule, latent_frames=8), (4, "a blue star"))
    other = live_request("keep", "b", seed=9, latent_frames=6)
    whole, alone = run_whole(model, request), run_whole(model, other)
    leave_room(model, request)
    for moment in (2, 6, 9):
        drive = Drive(model, EngineLimits(requests=1))
        drive.submit(request)
        pause_after(drive, moment)
        assert free_pages(drive.rank) == [(pages, pages, pages) for _, _, pages in free_pages(drive.rank)]
        drive.submit(other)
        drive.run()
        assert drive.finished == ["b"]
        drive.core.tell("a", Resume())
        drive.run()
        assert not drive.failures
        assert (drive.videos["a"], drive.videos["b"]) == (whole, alone), moment
    drive.step()
    assert_nothing_stays(drive.rank)


def test_a_resumed_stream_waits_for_room_and_disturbs_nobody(model):
    request, other = live_request("recache", latent_frames=8), live_request("recache", "b", seed=9, latent_frames=8)
    drive = pause_beside(model, request, other, 6)
    drive.run(begins(1))
    assert not drive.core.tell("a", Resume()).paused
    drive.windows.clear()
    drive.run()
    assert drive.finished == ["b", "a"]
    order = [window.request_id for window in drive.windows]
    assert order == sorted(order, reverse=True)  # all of b, and then a
    assert drive.videos == {"a": run_whole(model, request), "b": run_whole(model, other)}


@pytest.mark.parametrize("kind", [SnapshotKind.EXACT, SnapshotKind.REPLAY])
def test_a_stream_is_put_down_while_others_have_its_room(model, kind):
    request, other = live_request("recache", latent_frames=8), live_request("recache", "b", seed=9, latent_frames=8)
    whole = run_whole(model, request)
    drive = pause_beside(model, request, other, 8)
    drive.run(begins(2))
    snapshot = put_down(drive, kind)
    drive.run()
    assert drive.finished == ["b"]
    assert take_up(model, snapshot) == whole[bytes_of(snapshot.frame) :]
    drive.core.tell("a", Resume())
    drive.run()
    assert drive.videos["a"] == whole


def test_a_paused_stream_is_not_missed_by_new_ranks_until_it_is_resumed(model):
    request, other = live_request("flush", latent_frames=8), live_request("flush", "b", seed=9, latent_frames=8)
    drive = pause_beside(model, request, other, 8)
    drive.run(begins(2))
    drive.lose()
    drive.run()
    assert drive.finished == ["b"]
    drive.core.tell("a", Resume())
    drive.run()
    assert not drive.failures
    assert drive.videos == {"a": run_whole(model, request), "b": run_whole(model, other)}


def test_a_host_without_memory_leaves_a_paused_stream_its_room(model, monkeypatch):
    def refuse(*_):
        raise ResourceError("none")

    monkeypatch.setattr(resting, "put_to_rest", refuse)
    monkeypatch.setattr("reelray.workers.engine.held_request.put_to_rest", refuse)
    request = live_request("recache", latent_frames=8)
    drive = Drive(model)
    drive.submit(request)
    pause_after(drive, 7)
    assert [free < pages for free, _, pages in free_pages(drive.rank)] == [True]
    drive.core.tell("a", Resume())
    drive.run()
    assert drive.videos["a"] == run_whole(model, request)


def test_every_rank_of_a_lane_keeps_a_stream_that_one_cannot_put_to_rest(model):
    station = Station(least=lambda number: number if number > 1 else 0)
    rooms = MemoryRooms(model)
    stream = rooms.open(live_request("keep"), station)
    with pytest.raises(ResourceError, match="a rank of the lane"):
        rooms.park(stream)
    assert not stream.rests
    (room,) = rooms._rooms.values()
    assert room.host.free == room.host.pages
    stream.close()


def test_streams_that_are_paused_and_resumed_at_random_share_room_for_two(model):
    for seed in range(3):
        rng = random.Random(seed)
        requests = [live_request(rng.choice(sorted(RULES)), name, seed=7, latent_frames=8) for name in "abcd"]
        whole = {request.request_id: run_whole(model, request) for request in requests}
        leave_room(model, live_request("bank"), live_request("flush"), live_request("rebuild"))
        drive, paused = Drive(model), set()
        for request in requests:
            drive.submit(request)
            for _ in range(rng.randint(2, 5)):
                drive.step()
            drive.core.tell(request.request_id, Pause())
            paused.add(request.request_id)
            drive.step()
        for _ in range(200):
            drive.step()
            name = rng.choice("abcd")
            try:
                drive.core.tell(name, Resume() if name in paused else Pause())
            except InputError:
                continue  # it is complete
            paused ^= {name}
        for name in paused:
            drive.core.tell(name, Resume())
        drive.run()
        assert not drive.failures
        assert drive.videos == whole, seed
        model.page_bytes = None


class Repeating:
    """Comes by what a request remembers by its forwards."""

    def carry_out(self, _move, held, station, _leaving):
        held.begin_memory(station)


class Alone:
    """Carries out moves between places of one rank."""

    moved_bytes, memories = 0, Repeating()

    def carry_out(self, _move, held):
        held.take(held.give())


@pytest.mark.parametrize("rests", [False, True])
def test_a_regrouping_never_ends_a_stream_that_finds_no_room(model, rests):
    request, home, away = live_request("bank", latent_frames=8), Layout(ulysses=2), Layout(replica=2)
    whole = run_whole(model, request)
    leave_room(model, request)  # all of it is taken at home, before the other room is made
    drive = Drive(model)
    drive.rank = Rank(model, stations={home: Station(), away: Station()}, regrouper=Alone())
    drive.core = EngineCore(EngineLimits(), layouts=[home, away])
    drive.submit(request)
    for _ in range(7):
        drive.step()
    name, source, target = request.request_id, Place(layout=home), Place(layout=away)

    def run(layout, **parts):
        plan = StepPlan(sequence=drive.rank._sequence, generation=0, layout=layout, **parts)
        report = drive.rank.execute(plan)
        assert not report.failures
        return report

    if rests:
        run(home, parks=(name,))
    window = drive.core._rollouts[name].next_window()
    moved = run(away, moves=(Move(request_id=name, source=source, target=target),), windows=(window,))
    assert moved.waiting == (name,)
    assert not moved.costs or moved.costs[0].forwards == 0
    assert run(away, fetches=(name,)).waiting == (name,)
    snapshots = run(away, snapshots=(SnapshotStep(request_id=name, kind=SnapshotKind.EXACT),)).snapshots
    assert len(find_history(snapshots[0].parts)) == len(drive.rank._held[name].forwards.history) > 0
    assert not run(home, moves=(Move(request_id=name, source=target, target=source),)).waiting
    drive.core._lines[0]._sequence = drive.rank._sequence
    drive.run()
    assert drive.videos["a"] == whole


@pytest.mark.parametrize("moment", [2, 6])
def test_a_stream_that_comes_back_may_share_a_forward_at_once(model, moment):
    requests = [live_request("rollout", name, seed=seed, latent_frames=14) for name, seed in (("a", 7), ("b", 9))]
    whole = {request.request_id: run_whole(model, request) for request in requests}
    drive = Drive(model, EngineLimits(batching=Batching(most=2, invariant=True)))
    for request in requests:
        drive.submit(request)
    for _ in range(moment):
        drive.step()
    drive.core.tell("a", Pause())
    for _ in range(2):
        drive.step()
    drive.core.tell("a", Resume())
    drive.run()
    assert not drive.failures
    assert drive.videos == whole
