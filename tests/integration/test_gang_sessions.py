"""Streams that are talked to, put down and taken up on several ranks, every one a process."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from reelray.cluster.local_engine import LocalEngine
from reelray.proto.commit_parts import find_memory
from reelray.proto.events import Frames
from reelray.proto.layout import Layout
from reelray.proto.request import RequestId
from reelray.proto.session import Extend, Fork, Pause, Resume, Say
from reelray.proto.snapshot import SnapshotKind
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.gang import GangSpec
from reelray.workers.models.registry import open_checkpoint
from tests.support.live_cases import live_request, run_whole, said

pytestmark = pytest.mark.usefixtures("forked")
KINDS = [SnapshotKind.EXACT, SnapshotKind.REPLAY]


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cpu")


def open_engine(folder, layout, *, decode_ranks=0):
    load = partial(open_checkpoint, folder, device="cpu")
    spec = GangSpec(load=load, layout=layout, decode_ranks=decode_ranks, start_s=120, lag_s=20)
    return LocalEngine.open_gang(spec, limits=EngineLimits(commit_s=1e-4))


def collect(events):
    return b"".join(event.data for event in events if isinstance(event, Frames))


def assert_near(found, wanted):
    found, wanted = (np.frombuffer(data, np.uint8).astype(int) for data in (found, wanted))
    assert found.shape == wanted.shape
    assert abs(found - wanted).max() <= 1
    assert (found != wanted).mean() <= 0.001


@pytest.mark.parametrize(
    ("layout", "decode_ranks", "guidance"),
    [(Layout(ulysses=2), 0, 1.0), (Layout(cfg=2), 0, 3.0), (Layout(), 1, 1.0)],
    ids=["heads", "branches", "crews"],
)
def test_ranks_hear_and_put_down_what_one_rank_would(tiny_t2v, model, layout, decode_ranks, guidance):
    request = live_request("recache", latent_frames=24, guidance=guidance)
    longer = replace(request, frames=request.frames + 16)
    whole = run_whole(model, said(longer, (20, "a blue star spins")))
    with open_engine(tiny_t2v, layout, decode_ranks=decode_ranks) as engine:
        events = engine.render(request)
        parts = [collect(next(events) for _ in range(12))]
        # Nobody takes frames, so the ranks are held back long before the change.
        assert engine.tell(RequestId("a"), Say(prompt="a blue star spins", latent_frame=19)).frame == 77
        assert engine.tell(RequestId("a"), Extend(latent_frames=4)).frames == longer.frames
        assert engine.tell(RequestId("a"), Pause()).paused
        snapshots = [engine.snapshot(RequestId("a"), kind) for kind in KINDS]
        again = [replace(snapshot.request, request_id=RequestId(snapshot.kind)) for snapshot in snapshots]
        taken_up = [collect(engine.render(*pair)) for pair in zip(again, snapshots, strict=True)]
        forked, way = engine.fork(RequestId("a"), Fork(request_id=RequestId("fork")))  # it rests as this one does
        engine.tell(RequestId("fork"), Resume())
        assert_near(collect(way), whole[forked.frame * 48 * 32 * 3 :])
        engine.cancel(RequestId("a"))
        assert len(parts[0]) <= snapshots[0].frame * 48 * 32 * 3
    heads = [first for first, _ in find_memory(snapshots[0].parts)]
    assert heads == ([0, model.heads // 2] if layout.ulysses == 2 else [0])
    for snapshot, found in zip(snapshots, taken_up, strict=True):
        wanted = whole[snapshot.frame * 48 * 32 * 3 :]
        assert wanted
        assert_near(found, wanted)
        with LocalEngine.of_model(model) as alone:  # one rank takes up what two have put down
            assert_near(collect(alone.render(snapshot.request, snapshot)), wanted)


def test_two_ranks_take_up_what_one_has_put_down(tiny_t2v, model):
    request = live_request("recache", latent_frames=24)
    whole = run_whole(model, request)
    with LocalEngine.of_model(model) as alone:
        alone.render(request)
        alone.tell(RequestId("a"), Pause())
        snapshots = [alone.snapshot(RequestId("a"), kind) for kind in KINDS]
    with open_engine(tiny_t2v, Layout(ulysses=2)) as engine:
        for snapshot in snapshots:
            found = collect(engine.render(snapshot.request, snapshot))
            assert_near(found, whole[snapshot.frame * 48 * 32 * 3 :])
