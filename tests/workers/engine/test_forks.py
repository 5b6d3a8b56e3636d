"""Streams that go two ways: what both remember lies in memory once, and neither notices the other."""

import pytest

from reelray.proto.errors import EndedError, InputError, ResourceError
from reelray.proto.request import RequestId
from reelray.proto.session import Fork, Pause, Resume, Say
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.clean_chunks import CleanChunks
from reelray.workers.engine.desk import Desk
from reelray.workers.engine.leader import Leader
from reelray.workers.engine.rank import Rank
from reelray.workers.models.registry import open_checkpoint
from tests.support.latent_pictures import LatentPictures
from tests.support.live_cases import RULES, Drive, begins, live_request, rolling_request, run_whole, said
from tests.support.pages_left import assert_nothing_stays
from tests.workers.engine.test_paused_streams import leave_room
from tests.workers.engine.test_snapshots import bytes_of


@pytest.fixture
def model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cpu")


@pytest.fixture
def plain(model):
    """For what the decoder has no part in."""
    return LatentPictures(model)


def fork(drive, source="a", name="b"):
    drive.core.fork(RequestId(source), RequestId(name))
    while not drive.forks:
        drive.step()
    return drive.forks.pop()


def room_of(drive):
    (room,) = drive.rank._rooms._rooms.values()
    return room


@pytest.mark.parametrize("rule", [*RULES, "rolling"])
def test_both_ways_are_those_of_streams_that_never_met(model, plain, rule):
    """What is folded, banked or remembered anew by one of them is not by the other."""
    model = model if rule == "recache" else plain
    guidance = 3.0 if rule == "flush" else 1.0
    request = rolling_request() if rule == "rolling" else live_request(rule, latent_frames=10, guidance=guidance)
    whole = run_whole(model, request)
    for moment in (8,) if rule == "bank" else (5,):
        drive = Drive(model)
        drive.submit(request)
        for _ in range(moment):
            drive.step()
        forked = fork(drive)
        begun = max(slot.chunk + 1 for window in drive.windows for slot in window.chunks)
        assert (forked.source, forked.error) == ("a", None)
        assert drive.core.tell("b", Say(prompt="a blue star spins")).frame == 8 * begun - 3
        for _ in range(2):
            drive.step()
        if rule in {"recache", "flush", "rolling"}:
            drive.lose()
        drive.run()
        assert not drive.failures
        assert drive.videos["a"] == whole
        other = run_whole(model, said(request, (2 * begun, "a blue star spins")))
        assert drive.videos["b"] == other[bytes_of(forked.frame) :]
        drive.step()
        assert_nothing_stays(drive.rank)


def test_a_fork_costs_no_page_until_it_goes_its_own_way(model):
    request = live_request("keep", guidance=3.0)
    drive = Drive(model)
    drive.submit(request)
    drive.run(begins(4))
    room, memories = room_of(drive), drive.rank._held["a"].forwards.memory._memories
    unpromised = room.arena.unpromised
    fork(drive)
    drive.core.tell("a", Pause())
    drive.core.tell("b", Pause())
    held = sum(memory.memory.held_bytes for memory in memories)
    assert room.shared_bytes == held > 0
    both = drive.rank._held["a"], drive.rank._held["b"]
    pages = [[memory.memory._held for memory in one.forwards.memory._memories] for one in both]
    assert pages[0] == pages[1]
    assert unpromised - room.arena.unpromised == sum(memory.memory.most_pages for memory in memories)


def test_a_fork_without_room_is_refused_at_the_call_and_the_stream_goes_on(model):
    request = live_request("recache", latent_frames=8)
    whole = run_whole(model, request)
    leave_room(model, request)
    rank = Rank(model)
    drive = Drive(model)
    with Leader(drive.core, rank, rank.describe()) as leader:
        events = leader.submit(request)
        next(event for event in events if hasattr(event, "data"))
        with pytest.raises(ResourceError, match="not promised"):
            leader.fork(RequestId("a"), Fork(request_id=RequestId("b")))
        with pytest.raises(InputError, match="request b is not here"):
            leader.tell(RequestId("b"), Pause())
        found = b"".join(event.data for event in events if hasattr(event, "data"))
    assert found == whole[bytes_of(5) :]
    assert "b" not in rank._held


def test_an_engine_that_takes_on_no_more_says_so(model):
    drive = Drive(model, EngineLimits(requests=1))
    drive.submit(live_request("keep"))
    drive.run(begins(2))
    with pytest.raises(ResourceError, match="1 streams, as many as it takes on; stop or pause one first"):
        drive.core.fork(RequestId("a"), RequestId("b"))
    drive.core.tell("a", Pause())
    drive.core.fork(RequestId("a"), RequestId("b"))
    with pytest.raises(InputError, match="wait for it"):
        drive.core.fork(RequestId("a"), RequestId("c"))


def test_the_fork_of_a_paused_stream_rests_beside_it(model):
    request = live_request("bank", latent_frames=8)
    whole = run_whole(model, request)
    leave_room(model, request)
    drive = Drive(model)
    drive.submit(request)
    for _ in range(8):
        drive.step()
    drive.core.tell("a", Pause())
    drive.run()
    forked = fork(drive)
    assert room_of(drive).arena.unpromised == room_of(drive).arena.pages
    drive.core.tell("b", Resume())
    drive.run()
    assert drive.finished == ["b"]
    drive.core.tell("a", Resume())
    drive.run()
    assert drive.videos == {"a": whole, "b": whole[bytes_of(forked.frame) :]}
    drive.step()
    assert_nothing_stays(drive.rank)


def test_a_prompt_that_comes_too_late_for_a_fork_leaves_none(model):
    drive = Drive(model)
    rank = Rank(model)
    with Leader(drive.core, rank, rank.describe()) as leader:
        events = leader.submit(live_request("keep", latent_frames=16))
        leader.tell(RequestId("a"), Pause())
        forked, _ = leader.fork(RequestId("a"), Fork(request_id=RequestId("b"), prompt="a blue star spins"))
        assert "a blue star spins" in {forked.request.prompt, *(change.prompt for change in forked.request.changes)}
        leader.cancel(RequestId("b"))
        leader.tell(RequestId("a"), Resume())
        while drive.core._rollouts["a"].chunks_begun < 8:
            next(events)
        with pytest.raises(InputError, match=r"too late|not here|ended before"):
            leader.fork(RequestId("a"), Fork(request_id=RequestId("c"), prompt="a blue star spins"))
        assert not {"b", "c"} & {*leader._clients.streams}


def test_a_stream_that_ends_before_its_fork_says_so(model):
    drive = Drive(model)
    drive.submit(live_request("keep"))
    drive.run(begins(2))
    drive.core.fork(RequestId("a"), RequestId("b"))
    drive.core.cancel("a")
    drive.run()
    assert not drive.forks
    assert not drive.rank._held
    assert_nothing_stays(drive.rank)


def go_back(drive, chunk, name="b"):
    """Go back as a session does: the stream that was is cancelled."""
    forked = drive.core.go_back(RequestId("a"), Fork(request_id=RequestId(name), back_to=chunk))
    drive.videos[name] = b""
    drive.core.cancel("a")
    return forked


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "keep"])
@pytest.mark.parametrize("loses", [False, True])
def test_going_back_begins_at_the_newest_mark_and_gives_the_same_frames(model, plain, rule, loses):
    model = model if rule == "recache" else plain
    request = said(live_request(rule, latent_frames=14), (4, "a pink heart"))
    drive = Drive(model, EngineLimits(mark_chunks=2, marks=2, commit_s=0.5))
    drive.submit(request)
    drive.run(begins(6))
    assert [mark.chunks_begun for mark in drive.core._marks._marks["a"]] == [4, 6]  # that of chunk 2 was given up
    assert sum(name.startswith("a@") for name in drive.rank._held) == 2
    forked = go_back(drive, 5)
    assert forked.frame == 37
    drive.core.tell("b", Say(prompt="a blue star spins"))
    drive.windows.clear()
    if loses:
        drive.step()
        drive.lose()
    drive.run()
    assert not drive.failures
    whole = run_whole(model, said(request, (4, "a pink heart"), (10, "a blue star spins")))
    assert drive.videos["b"] == whole[bytes_of(37) :]
    if not loses:
        assert min(window.chunk for window in drive.windows if window.request_id == "b") == 4
    drive.step()
    assert not drive.rank._held
    assert_nothing_stays(drive.rank)
    assert room_of(drive).host.free == room_of(drive).host.pages


def test_where_there_is_no_mark_all_is_made_again(model):
    request = live_request("recache", latent_frames=14)
    whole = run_whole(model, request)
    drive = Drive(model, EngineLimits(mark_chunks=4))
    drive.submit(request)
    drive.run(begins(5))
    assert go_back(drive, 2).frame == 13  # before the only mark
    drive.run()
    assert drive.videos["b"] == whole[bytes_of(13) :]


def test_a_mark_that_the_ranks_have_no_more_ends_nothing(model):
    request = live_request("bank", latent_frames=14)
    whole = run_whole(model, request)
    drive = Drive(model, EngineLimits(mark_chunks=2))
    drive.submit(request)
    drive.run(begins(6))
    for name in [name for name in drive.rank._held if name.startswith("a@")]:
        drive.rank._desk.drop(name)
    go_back(drive, 5)
    drive.run()
    assert drive.finished == ["b"]
    assert drive.videos["b"] == whole[bytes_of(37) :]


def test_marks_leave_half_of_the_host_memory_to_streams_that_rest(model):
    model.host_bytes = 10_000_000
    request = live_request("recache", latent_frames=30)
    drive = Drive(model, EngineLimits(mark_chunks=1, marks=99))
    drive.submit(request)
    drive.run(begins(9))
    marks = [name for name in drive.rank._held if name.startswith("a@")]
    assert 1 <= len(marks) < 6
    assert {*marks} == {mark.request.request_id for mark in drive.core._marks._marks["a"]}
    drive.run()
    assert drive.videos["a"] == run_whole(model, request)
    drive.step()
    assert not drive.rank._held


def test_a_mark_for_which_there_is_no_memory_is_no_failure_and_nothing_is_copied_for_it(model, monkeypatch):
    """In a gang a failure is waited for on every rank; on a GPU it empties the allocator's cache in mid-stream."""
    copied, whole_fork = [], CleanChunks.fork
    monkeypatch.setattr(CleanChunks, "fork", lambda clean, **how: copied.append(how) or whole_fork(clean, **how))
    forgotten, forget = [], Desk.forget
    monkeypatch.setattr(Desk, "forget", lambda desk, name: forgotten.append(name) or forget(desk, name))
    monkeypatch.setattr(model, "host_bytes", 10_000_000)
    drive = Drive(model, EngineLimits(mark_chunks=1, marks=99))
    drive.submit(live_request("rollout", latent_frames=30))
    drive.run(begins(9))
    marks = [name for name in drive.rank._held if name.startswith("a@")]
    assert 1 <= len(marks) == len(copied) < 8
    assert not drive.failures
    assert not forgotten
    assert {*marks} == {mark.request.request_id for mark in drive.core._marks._marks["a"]}


def test_a_fork_that_is_asked_for_while_a_mark_is_left_is_not_the_mark(model):
    request = live_request("keep", latent_frames=14)
    drive, asked = Drive(model, EngineLimits(mark_chunks=1)), []

    def ask(_plan=None):
        if not asked and drive.core._lines[0].issued.forks:
            asked.append(drive.core.fork(RequestId("a"), RequestId("b")))

    drive.submit(request)
    while drive.step(ask) is not None:
        pass
    (forked,) = drive.forks
    assert (forked.request.request_id, forked.error) == ("b", None)
    assert drive.videos["b"] == run_whole(model, request)[bytes_of(forked.frame) :]
    drive.step()
    assert not drive.rank._held


def test_the_fork_of_a_stream_that_ends_in_the_same_step_has_ended_too(model):
    drive = Drive(model)
    drive.submit(live_request("keep", latent_frames=4))
    while True:
        rollout = drive.core._rollouts["a"]
        if len(rollout.pieces) - rollout.pieces_done == 1 and rollout.next_decode() is not None:
            break
        drive.step()
    drive.core.fork(RequestId("a"), RequestId("b"))
    drive.run()
    assert isinstance(drive.forks[0].error, EndedError)
    assert "b" not in drive.core._rollouts
    drive.step()
    assert not drive.rank._held


def test_forks_on_their_way_have_names_and_places(model):
    drive = Drive(model, EngineLimits(requests=3))
    drive.submit(live_request("keep"))
    drive.submit(live_request("keep", "c", seed=9))
    drive.run(begins(2))
    drive.core.fork(RequestId("a"), RequestId("b"))
    with pytest.raises(InputError, match="request b is here already"):
        drive.core.submit(live_request("keep", "b"), model.facts)
    with pytest.raises(ResourceError, match="3 streams, as many as it takes on"):
        drive.core.fork(RequestId("c"), RequestId("d"))
