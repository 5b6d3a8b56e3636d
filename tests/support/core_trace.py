"""Drives an engine core without ranks and holds what must be true of every plan."""

from reelray.proto.errors import ReelrayError
from reelray.proto.layout import Layout, Place
from reelray.proto.step_plan import RequestFailure, StepReport
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from tests.support.requests import make_facts

FACTS = make_facts()
ALONE = (Layout(),)
PIPES = (Layout(replica=2, pipe=3),)
LANES = (Layout(ulysses=4), Layout(replica=2, ulysses=2), Layout(replica=4))


class Trace:
    """Drives a core and records what it issued, holding the invariants at every plan."""

    def __init__(self, limits=None, generation=3, layouts=ALONE):
        self.first, self.pipe = layouts[0], layouts[0].pipe
        self.core = EngineCore(limits, layouts=layouts, generation=generation)
        self.limits = limits or EngineLimits()
        self.generation = generation
        self.sequence, self.now_s = 0, 0.0
        self.requests = {}
        self.ended = set()
        self.held = set()
        self.windows = {}
        self.places = {}
        self.decoded = {}
        self.owed = {}
        self.released = []
        self.finished = []

    def submit(self, request):
        self.core.submit(request, FACTS)
        self.requests[request.request_id] = request
        self.windows[request.request_id] = []
        self.decoded[request.request_id] = []
        self.owed[request.request_id] = 0

    def cancel(self, name):
        if self.core.cancel(name):
            self.ended.add(name)

    def acknowledge(self, name):
        if name in self.owed:
            self.core.acknowledge(name, self.owed[name])
            self.owed[name] = 0

    def step(self, fail=(), during=lambda: None, waiting=()):
        """Carry out a plan; `waiting` names requests that the ranks have no room for."""
        plan = self.core.next_step(self.now_s)
        if plan is None:
            return None
        self._check(plan)
        assert self.core.next_step(self.now_s) is None
        during()
        touched = {w.request_id for w in plan.windows} | {d.request_id for d in plan.decodes}
        touched |= {a.request.request_id for a in plan.admits}
        failures = tuple(RequestFailure(request_id=i, error=ReelrayError("no")) for i in fail if i in touched)
        moved = {move.request_id for move in plan.moves} | {*plan.fetches}
        waiting = tuple(moved & {*waiting})
        for window in plan.windows:
            if window.request_id in waiting:
                self.windows[window.request_id].pop()
        report = StepReport(sequence=plan.sequence, generation=plan.generation, failures=failures, waiting=waiting)
        outcome = self.core.report(report)
        self.ended |= set(outcome.failed) | set(outcome.finished)
        self.finished += outcome.finished
        return plan

    def _check(self, plan):
        assert (plan.sequence, plan.generation) == (self.sequence, self.generation)
        self.sequence += 1
        for name in plan.releases:
            assert name in self.held
            assert name in self.ended
            self.held.remove(name)
            del self.places[name]
            self.released.append(name)
        for move in plan.moves:
            assert self.places[move.request_id] == move.source != move.target
            assert move.target.layout == plan.layout
            self.places[move.request_id] = move.target
        for admit in plan.admits:
            assert admit.request.request_id not in self.held
            self.held.add(admit.request.request_id)
            self.places[admit.request.request_id] = Place(layout=plan.layout or self.first, lane=admit.lane)
        assert len(self.held) <= self.limits.requests
        for window in plan.windows:
            assert window.request_id in self.held - self.ended
            self.windows[window.request_id].append(window)
        for decode in plan.decodes:
            assert decode.request_id in self.held - self.ended
            self._check_decode(decode)
        together = max(self.pipe, self.limits.batching.most)
        for steps, most in ((plan.windows, together), (plan.decodes, 1)):
            lanes = [step.lane for step in steps]
            assert lanes == sorted(lanes)
            assert all(lanes.count(lane) <= most for lane in lanes)
            assert len({step.request_id for step in steps}) == len(steps)
            for step in steps:
                assert self.places[step.request_id].lane == step.lane
                assert plan.layout in {None, self.places[step.request_id].layout}

    def _check_decode(self, decode):
        name = decode.request_id
        end = decode.first_latent_frame + decode.latent_frames
        before = FACTS.frames(decode.first_latent_frame) if decode.first_latent_frame else 0
        frames = FACTS.frames(end) - before
        clean = sum(w.latent_frames for w in self.windows[name] if w.last)
        # a window of the same plan is clean only after the plan
        assert end <= clean
        assert self.owed[name] == 0 or self.owed[name] + frames <= self.limits.frame_credit
        self.owed[name] += frames
        self.decoded[name].append(decode)

    def assert_complete(self, name):
        request = self.requests[name]
        total = FACTS.latent_frames(request.frames)
        steps = request.recipe.schedule.length
        size = request.recipe.chunking.latent_frames or total
        chunks = [(first, min(size, total - first)) for first in range(0, total, size)]
        expected = [
            (index, first, length, step, step == steps - 1)
            for index, (first, length) in enumerate(chunks)
            for step in range(steps)
        ]
        got = [(w.chunk, w.first_latent_frame, w.latent_frames, w.step, w.last) for w in self.windows[name]]
        assert got == expected
        self.assert_contiguous(name)
        assert sum(d.latent_frames for d in self.decoded[name]) == total
        assert [d.last for d in self.decoded[name]] == [False] * (len(self.decoded[name]) - 1) + [True]

    def assert_contiguous(self, name):
        position = 0
        for decode in self.decoded[name]:
            assert decode.first_latent_frame == position
            position += decode.latent_frames

    def run(self):
        while self.step() is not None:
            for name in self.requests:
                self.acknowledge(name)
