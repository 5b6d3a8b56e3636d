"""Coordinators under test: a clock that stands still, engines of known speed, houses that write down what they hear."""

import itertools

from reelray.cluster.coordinator.coordinator import Coordinator
from reelray.cluster.coordinator.costs import Cost, CostTable
from reelray.cluster.coordinator.messages import Begin, Clip, EngineOffer, Joined, MakeRoom, Turned, Waits, Wish
from reelray.proto.layout import Layout
from reelray.proto.request import RequestId
from reelray.proto.residency import Residency
from reelray.scheduler.fleet.ticket import EngineId, Service
from tests.support.fake_engine import FACTS, RECIPE

SECONDS = {17: 10.0, 49: 30.0, 81: 50.0}


class ManualClock:
    """Time goes on when a test says so; calls that are due come then."""

    def __init__(self):
        self._now, self._calls, self._count = 0.0, {}, itertools.count()

    def now(self):
        return self._now

    def call_at(self, at_s, action):
        number = next(self._count)
        self._calls[number] = (at_s, action)
        return _Call(self._calls, number)

    @property
    def is_idle(self):
        """Whether nothing is to come."""
        return not self._calls

    def go_to(self, at_s):
        """Let time pass, and everything happen that is due until then."""
        while due := [(when, number) for number, (when, _) in self._calls.items() if when <= at_s]:
            when, number = min(due)
            self._now = max(self._now, when)
            self._calls.pop(number)[1]()
        self._now = max(self._now, at_s)


class _Call:
    def __init__(self, calls, number):
        self._calls, self._number = calls, number

    def cancel(self):
        self._calls.pop(self._number, None)


class KnownCosts(CostTable):
    """Ten seconds for 17 frames, and so on, on any engine."""

    def cost(self, offer, clip):
        seconds = 1.0 if clip is None else SECONDS[clip.frames] * offer.pace
        return Cost(seconds={1: seconds}, memory_bytes=1)


def offer(name, *, model="m", ranks=1, pace=1.0):
    return EngineOffer(
        engine_id=EngineId(name),
        model=model,
        digest="d",
        facts=FACTS,
        sizes=None,
        layout=Layout(replica=ranks),
        decode_ranks=0,
        residency=Residency(),
        on_gpus=False,
        pace=pace,
    )


def clip(frames=17):
    return Clip(width=96, height=64, frames=frames, recipe=RECIPE)


def wish(name, frames=17, *, render=False, model="m", tenant="t", **rest):
    return Wish(
        request_id=RequestId(name),
        model=model,
        clip=clip(frames),
        tenant=tenant,
        service=Service.BATCH if render else Service.INTERACTIVE,
        **rest,
    )


class FakeHouse:
    """Writes down what it hears, by name."""

    def __init__(self, name, coordinator, *engines, runs=(), waiting=()):
        self.name, self.coordinator, self.words = name, coordinator, []
        self.begun = {}
        joined = Joined(house=name, engines=engines, runs=tuple(runs), waiting=tuple(waiting))
        coordinator.join(joined, self.hear)

    def hear(self, word):
        assert word.fence == self.coordinator.fence
        self.words.append(word.decision)
        if isinstance(word.decision, Begin):
            self.begun[word.decision.request_id] = word.decision

    def say(self, report):
        self.coordinator.take(self.name, report)

    def told(self, kind=(Begin, MakeRoom, Turned)):
        """What was decided since the last time, in order: (kind, request, engine)."""
        found = [(type(w).__name__, w.request_id) for w in self.words if isinstance(w, kind)]
        self.words = []
        return found

    def waits(self):
        return {w.request_id: w for w in self.words if isinstance(w, Waits)}


def a_coordinator(**rest):
    clock = ManualClock()
    return Coordinator(KnownCosts(), clock, **rest), clock
