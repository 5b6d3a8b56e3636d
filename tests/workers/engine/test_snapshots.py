"""Streams that are put down and taken up again, on the same ranks or on others."""

from dataclasses import replace

import pytest
import torch

from reelray.proto.commit_parts import DECODE_PART, find_history, find_memory
from reelray.proto.errors import InputError
from reelray.proto.request import RequestId
from reelray.proto.session import Extend, Pause, Resume, Say
from reelray.proto.snapshot import SnapshotKind
from reelray.proto.storage import Storage
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.packing import unpack
from reelray.workers.engine.rank import Rank
from reelray.workers.models.registry import open_checkpoint
from tests.support.live_cases import RULES, Drive, begins, live_request, rolling_request, run_whole, said

FAITHFUL = [SnapshotKind.EXACT, SnapshotKind.REPLAY]


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cpu")


def put_down(drive, kind, name="a"):
    drive.core.snapshot(RequestId(name), kind)
    while not drive.snapshots:
        if drive.step() is None:
            return None  # it came to its end first
    return drive.snapshots.pop()


def take_up(model, snapshot, name="b"):
    """What another engine makes of it."""
    other = Drive(model)
    other.submit(replace(snapshot.request, request_id=RequestId(name)), snapshot=snapshot)
    other.run()
    assert not other.failures
    return other.videos[name]


def bytes_of(frames):
    return frames * 48 * 32 * 3


@pytest.mark.parametrize("kind", FAITHFUL)
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "keep"])
def test_another_engine_goes_on_bit_by_bit_from_any_moment(model, plain, rule, kind):
    model = model if rule == "flush" else plain
    request = said(live_request(rule, latent_frames=8, guidance=3.0 if rule == "flush" else 1.0), (5, "a blue star"))
    whole, moments = run_whole(model, request), set()
    for moment in range(2, 20, 3):
        drive = Drive(model, EngineLimits())
        drive.submit(request)
        for _ in range(moment):
            drive.step()
        if drive.finished:
            break
        snapshot = put_down(drive, kind)
        if snapshot is None:
            assert drive.finished
            break
        assert drive.videos["a"] == whole[: bytes_of(snapshot.frame)]
        assert take_up(model, snapshot) == whole[bytes_of(snapshot.frame) :], moment
        drive.run()
        assert drive.videos["a"] == whole  # who was put down goes on too
        moments.add(snapshot.windows)
    assert len(moments) > 2


def test_exact_memory_is_taken_up_without_a_forward(model, monkeypatch):
    request, forwards = live_request("recache", latent_frames=10), []
    drive = Drive(model)
    drive.submit(request)
    drive.run(begins(4))
    drive.core.tell("a", Pause())
    snapshots = {kind: put_down(drive, kind) for kind in SnapshotKind}
    denoise = type(model).denoise
    monkeypatch.setattr(type(model), "denoise", lambda *a, **b: forwards.append(1) or denoise(*a, **b))
    counts = {}
    for kind, snapshot in snapshots.items():
        forwards.clear()
        take_up(model, snapshot)
        counts[kind] = len(forwards)
    left = counts[SnapshotKind.EXACT]
    assert left == 1  # one denoise step of the last chunk
    assert counts[SnapshotKind.REPLAY] == left + 4  # chunks that were remembered
    assert counts[SnapshotKind.QUICK] == left + 3  # the sink, and a window of two chunks
    sizes = {kind: sum(map(len, snapshot.parts.values())) for kind, snapshot in snapshots.items()}
    assert sizes[SnapshotKind.REPLAY] < sizes[SnapshotKind.EXACT] / 2
    assert len(find_memory(snapshots[SnapshotKind.EXACT].parts)) == 1
    assert DECODE_PART not in snapshots[SnapshotKind.REPLAY].parts


def test_a_quick_snapshot_is_bounded_and_goes_on_like_the_stream(model):
    """Flagged lossy: close, and not the same."""
    request = live_request("moving", latent_frames=24)
    sizes, whole = [], run_whole(model, request)
    for chunk in (4, 6, 8):
        drive = Drive(model)
        drive.submit(request)
        drive.run(begins(chunk))
        snapshot = put_down(drive, SnapshotKind.QUICK)
        assert snapshot.is_lossy
        sizes.append(len(find_history(snapshot.parts)))
    assert sizes == [3, 3, 3]
    found = take_up(model, snapshot)
    wanted = whole[bytes_of(snapshot.frame) :]
    assert len(found) == len(wanted)
    gap = (torch.tensor(list(found)).float() - torch.tensor(list(wanted)).float()).abs()
    stranger = torch.tensor(list(run_whole(model, replace(request, seed=99))[-len(wanted) :])).float()
    assert 0 < gap.mean() < 0.5 * (stranger - torch.tensor(list(wanted)).float()).abs().mean()
    assert not put_down_early(model, request).is_lossy


def test_a_quick_snapshot_of_a_quickly_resumed_stream_has_the_same_chunks(model):
    request = live_request("keep", latent_frames=16)
    drive = Drive(model)
    drive.submit(request)
    drive.run(begins(5))
    first = put_down(drive, SnapshotKind.QUICK)
    again = Drive(model)
    again.submit(first.request, snapshot=first)
    again.run(lambda plan: bool(plan.admits))
    second = put_down(again, SnapshotKind.QUICK)
    chunks = [unpack(data)["first"] for data in find_history(first.parts).values()]
    assert chunks == [0, 6, 8]
    assert [unpack(data)["first"] for data in find_history(second.parts).values()] == chunks


def put_down_early(model, request):
    drive = Drive(model)
    drive.submit(request)
    drive.run(begins(2))
    return put_down(drive, SnapshotKind.EXACT)


def test_a_short_video_is_put_down_quickly_without_a_loss(model):
    request = live_request("recache", latent_frames=8)
    drive = Drive(model)
    drive.submit(request)
    drive.run(begins(2))
    snapshot = put_down(drive, SnapshotKind.QUICK)
    assert take_up(model, snapshot) == run_whole(model, request)[bytes_of(snapshot.frame) :]


@pytest.mark.parametrize("kind", SnapshotKind)
def test_what_was_taken_up_survives_losses_and_is_put_down_again(model, plain, kind):
    model = model if kind is SnapshotKind.QUICK else plain
    request = live_request("recache", latent_frames=14)
    drive = Drive(model)
    drive.submit(request)
    drive.run(begins(4))
    snapshot = put_down(drive, kind)
    wanted = take_up(model, snapshot)
    for before, after, again in ((1, 0, "exact"), (3, 2, "replay"), (6, 1, "exact"), (5, 3, "replay")):
        other = Drive(model)
        other.submit(request, snapshot=snapshot)
        for _ in range(before):
            other.step()
        other.lose()
        for _ in range(after):
            other.step()
        second = put_down(other, SnapshotKind(again))
        done = len(other.videos["a"])
        assert take_up(model, second) == wanted[done:], (before, after, again)
        other.run()
        assert other.videos["a"] == wanted


def test_a_snapshot_that_is_under_way_when_the_rank_is_lost_comes_from_the_new_one(model):
    request = live_request("recache", latent_frames=8)
    drive = Drive(model)
    drive.submit(request)
    drive.run(begins(2))
    drive.core.snapshot(RequestId("a"), SnapshotKind.EXACT)
    assert drive.core.next_step(9.0).snapshots
    drive.lose()
    while not drive.snapshots:
        drive.step()
    snapshot = drive.snapshots.pop()
    assert take_up(model, snapshot) == run_whole(model, request)[bytes_of(snapshot.frame) :]


def test_a_paused_stream_is_put_down_and_one_taken_up_hears_what_is_said(model):
    request = live_request("recache", latent_frames=8)
    drive = Drive(model)
    drive.submit(request)
    drive.run(begins(1))
    drive.core.tell("a", Pause())
    drive.step()
    snapshot = put_down(drive, SnapshotKind.REPLAY)
    drive.core.tell("a", Resume())
    other = Drive(model)
    other.submit(request, snapshot=snapshot)
    other.core.tell("a", Say(prompt="a blue star"))
    other.core.tell("a", Extend(latent_frames=2))
    other.run()
    wanted = run_whole(model, said(live_request("recache", latent_frames=10), (4, "a blue star")))
    assert other.videos["a"] == wanted[bytes_of(snapshot.frame) :]


def test_snapshots_of_what_is_not_there_are_refused(model):
    drive = Drive(model)
    request = live_request("keep", latent_frames=4)
    drive.submit(request)
    with pytest.raises(InputError, match="request b is not here"):
        drive.core.snapshot(RequestId("b"), SnapshotKind.EXACT)
    drive.core.snapshot(RequestId("a"), SnapshotKind.EXACT)
    with pytest.raises(InputError, match="is being taken"):
        drive.core.snapshot(RequestId("a"), SnapshotKind.EXACT)
    drive.core.cancel(RequestId("a"))
    drive.run()
    assert not drive.snapshots
    drive.submit(request)
    drive.run()
    with pytest.raises(InputError, match="all of it is made"):
        drive.core.snapshot(RequestId("a"), SnapshotKind.EXACT)


def test_chunks_that_stand_alone_are_put_down_too(model):
    request = live_request("keep", latent_frames=8)
    request = replace(request, recipe=replace(request.recipe, memory=None))
    for kind in SnapshotKind:
        drive = Drive(model)
        drive.submit(request)
        drive.run(begins(2))
        snapshot = put_down(drive, kind)
        assert take_up(model, snapshot) == run_whole(model, request)[bytes_of(snapshot.frame) :]


def test_no_pages_stay_behind(model):
    rank = Rank(model)
    drive = Drive(model)
    drive.rank = rank
    request = live_request("recache", latent_frames=8)
    drive.submit(request)
    drive.run(begins(2))
    snapshot = put_down(drive, SnapshotKind.EXACT)
    drive.submit(replace(request, request_id=RequestId("b")), snapshot=snapshot)
    drive.run()
    assert set(drive.finished) == {"a", "b"}
    (room,) = rank._rooms._rooms.values()
    assert room.pool.free == room.pool.unpromised == room.pool.pages
    assert unpack(find_memory(snapshot.parts)[0][1])[0]["entries"]


@pytest.mark.parametrize("storage", [Storage.FP8, Storage.INT8])
@pytest.mark.parametrize("rule", ["recache", "bank"])
def test_memory_in_8_bits_is_put_down_exactly(model, storage, rule):
    """A bank's candidate shares its pages with a frame."""
    request = live_request(rule, latent_frames=10)
    memory = replace(request.recipe.memory, storage=storage)
    request = replace(request, recipe=replace(request.recipe, memory=memory))
    whole = run_whole(model, request)
    for kind in FAITHFUL:
        drive = Drive(model)
        drive.submit(request)
        drive.run(begins(3))
        snapshot = put_down(drive, kind)
        assert take_up(model, snapshot) == whole[bytes_of(snapshot.frame) :]


def test_a_stream_that_rests_is_put_down_too(model):
    request = live_request("recache", latent_frames=10)
    drive = Drive(model)
    drive.submit(request)
    drive.run(begins(3))
    drive.rank._held["a"].park()
    drive.core.tell("a", Pause())
    snapshot = put_down(drive, SnapshotKind.EXACT)
    assert take_up(model, snapshot) == run_whole(model, request)[bytes_of(snapshot.frame) :]


def test_pictures_to_be_coded_anew_rest_and_move_along(model):
    request = live_request("rollout", latent_frames=14)
    drive, steps = Drive(model), 0
    drive.submit(request)
    while drive.step() is not None:
        steps += 1
        for held in drive.rank._held.values():
            with torch.inference_mode():
                held.park()
                held.park()
                held.wake()
                if steps % 3 == 0:
                    held.take(held.give())
                    held.begin_memory(drive.rank._station)
    assert not drive.failures
    assert drive.videos["a"] == run_whole(model, request)


def test_a_snapshot_that_fails_ends_its_stream_alone(model, monkeypatch):
    drive = Drive(model, EngineLimits())  # nothing else packs a decoder's state
    for name in "ab":
        drive.submit(live_request("keep", name, latent_frames=8))
    drive.run(begins(1))

    def fail(*_arguments, **_options):
        raise torch.OutOfMemoryError("no memory is left")

    monkeypatch.setattr(type(model), "pack_decode_state", fail)
    drive.core.snapshot(RequestId("a"), SnapshotKind.EXACT)
    drive.run()
    assert set(drive.failures) == {"a"}
    assert not drive.snapshots
    assert drive.videos["b"] == run_whole(model, live_request("keep", "b", latent_frames=8))


@pytest.mark.parametrize("kind", FAITHFUL)
def test_chunks_in_flight_are_put_down_bit_by_bit(model, kind):
    request = rolling_request()
    whole = run_whole(model, request)
    for moment in (3, 6, 9):
        drive = Drive(model)
        drive.submit(request)
        for _ in range(moment):
            drive.step()
        snapshot = put_down(drive, kind)
        assert take_up(model, snapshot) == whole[bytes_of(snapshot.frame) :], moment


def test_a_stream_put_down_before_it_remembers_anything_goes_to_another_lane(model):
    """What was written down then is nothing, and must not be taken for what it remembers later."""
    request = live_request("keep", latent_frames=8)
    first = Drive(model)
    first.submit(request)
    first.run(begins(0))
    snapshot = put_down(first, SnapshotKind.EXACT)
    drive = Drive(model)
    drive.submit(replace(snapshot.request, request_id=RequestId("b")), snapshot=snapshot)
    drive.run(begins(2))
    held = drive.rank._held["b"]
    with torch.inference_mode():
        held.take(held.give())
        held.begin_memory(drive.rank._station)
    drive.run()
    assert not drive.failures
    assert drive.videos["b"] == run_whole(model, request)[bytes_of(snapshot.frame) :]
