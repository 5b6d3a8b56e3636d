"""Streams that fail, are cancelled or find no room: they give back what they had, and others go on."""

import pytest
import torch

from reelray.proto.errors import ResourceError
from reelray.proto.request import RequestId
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine import memory_rooms
from reelray.workers.engine.rank import Rank
from reelray.workers.memory.pool import PagePool
from reelray.workers.models.registry import open_checkpoint
from tests.support.pages_left import assert_nothing_stays
from tests.support.render_on import render_on
from tests.support.stream_cases import request_of


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cpu")


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
