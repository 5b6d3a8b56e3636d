"""The order in which a leader does things, by a channel that the test looks through."""

from dataclasses import replace

import pytest

from reelray.proto.errors import CancelledError, RankLostError
from reelray.proto.events import Frames
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.clients import Clients
from reelray.workers.engine.frame_box import is_view
from reelray.workers.engine.leader import Leader
from reelray.workers.engine.rank import Rank
from tests.support.fake_model import FakeModel
from tests.support.plain_loop import render_plainly
from tests.support.requests import make_recipe, make_request

LIMITS = EngineLimits(decode_latent_frames=2, frame_credit=999)
REQUEST = make_request("a", latent_frames=6, recipe=make_recipe(steps=2, chunk=2))


def video(items):
    return b"".join(item.data for item in items if isinstance(item, Frames))


class Looked:
    """A rank whose frames are views of one memory, which is used again as soon as the plan after the next is issued."""

    def __init__(self, look=lambda _: None):
        self.rank, self.look, self.plans, self.bays = Rank(FakeModel()), look, [], []
        self.describe = self.rank.describe

    def issue(self, plan):
        self.look(plan)
        self.plans.append(plan)
        for bay in self.bays[:-1]:
            bay[:] = bytes(len(bay))

    def collect(self):
        report = self.rank.execute(self.plans[-1])
        frames = []
        for one in report.frames:
            self.bays.append(bytearray(one.data))
            frames.append(replace(one, data=memoryview(self.bays[-1])))
        return replace(report, frames=tuple(frames))

    def check(self):
        pass


def test_the_next_plan_is_issued_before_frames_are_handed_on(monkeypatch):
    notes = []
    channel = Looked(lambda plan: notes.append(plan.sequence))
    take = Clients.take

    def noting_take(clients, report):
        if report.frames:
            notes.append(f"frames of {report.sequence}")
        take(clients, report)

    monkeypatch.setattr(Clients, "take", noting_take)
    with Leader(EngineCore(LIMITS), channel, channel.describe()) as leader:
        items = list(leader.submit(REQUEST))
    assert video(items) == render_plainly(FakeModel(), REQUEST)
    assert not any(is_view(item.data) for item in items if isinstance(item, Frames))
    handed = [notes.index(f"frames of {plan.sequence}") for plan in channel.plans if plan.decodes]
    assert len(handed) == 3
    assert [notes[at - 1] for at in handed[:-1]] == [plan.sequence + 1 for plan in channel.plans if plan.decodes][:-1]


def test_what_was_reported_is_handed_on_where_the_next_plan_finds_no_rank():
    def lose_after_frames(_plan):
        if channel.bays and not lost:
            lost.append(True)
            raise RankLostError("rank 0 of 1 was lost")

    lost, channel = [], Looked(lose_after_frames)

    def rebuild():
        channel.rank = Rank(FakeModel(), generation=1)
        return 1

    channel.rebuild = rebuild
    with Leader(EngineCore(LIMITS), channel, channel.describe()) as leader:
        items = list(leader.submit(REQUEST))
    assert lost
    assert video(items) == render_plainly(FakeModel(), REQUEST)


def test_a_request_may_be_cancelled_while_its_report_is_on_its_way():
    ended = []

    def cancel_after_frames(_plan):
        if channel.bays and not ended:
            ended.append(leader.cancel(REQUEST.request_id))

    channel = Looked(cancel_after_frames)
    with Leader(EngineCore(LIMITS), channel, channel.describe()) as leader:
        stream = leader.submit(REQUEST)
        with pytest.raises(CancelledError):
            list(stream)
        assert ended == [True]
        assert video(list(leader.submit(make_request("b")))) == render_plainly(FakeModel(), make_request("b"))
