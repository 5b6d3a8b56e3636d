"""Two crews of ranks as they would behave, on a core's plans: what they hold, write down and take up again.

Every plan is checked against what its crew holds, so a plan that real ranks could not carry out fails the test.
"""

import pickle
from itertools import pairwise

from reelray.proto.commit_parts import CHUNK_PART, DECODE_PART, clean_part
from reelray.proto.errors import ReelrayError
from reelray.proto.layout import Layout
from reelray.proto.step_plan import Commit, Crew, RequestFailure, StepReport
from reelray.scheduler.engine_core import EngineCore
from tests.support.requests import make_facts

FACTS = make_facts()
ONE = Layout()


class Crews:
    """Drives a core with decode ranks; `advance` lets one crew finish.

    Args:
        limits: Of the core.
        layout: Of the ranks that denoise.
        decode_ranks: Ranks behind them.
        lending: When they help.
    """

    def __init__(self, limits, *, layout=ONE, decode_ranks=1, lending=None):
        self.core = EngineCore(limits, layouts=(layout,), decode_ranks=decode_ranks, lending=lending, generation=1)
        self.limits = limits
        self.layout = None if lending is None else layout
        self.lending = lending
        self.lent = 0
        self.generation = 1
        self.requests = {}
        self.ended = set()
        self.finished = []
        self.failed = []
        self.sent = {}  # frames that a client has, by request
        self.owed = {}
        self.plans = []
        self.overlaps = {}  # decode plan -> denoise plans that began and ended meanwhile
        self.forget()

    def forget(self):
        """New ranks, which know nothing."""
        self.held = {Crew.DENOISE: {}, Crew.DECODE: {}}
        self.sequences = {Crew.DENOISE: 0, Crew.DECODE: 0}
        self.in_flight = {}

    def submit(self, request):
        name = request.request_id
        self.core.submit(request, FACTS)
        self.requests[name] = request
        self.sent[name], self.owed[name] = 0, 0

    def cancel(self, name):
        if self.core.cancel(name):
            self.ended.add(name)

    def acknowledge(self, name):
        if self.owed.get(name):
            self.core.acknowledge(name, self.owed[name])
            self.owed[name] = 0

    def issue(self):
        """Take every plan there is."""
        batch = []
        while (plan := self.core.next_step(float(len(self.plans)))) is not None:
            assert plan.crew not in self.in_flight
            assert (plan.sequence, plan.generation) == (self.sequences[plan.crew], self.generation)
            self.sequences[plan.crew] += 1
            self.in_flight[plan.crew] = plan
            self.plans.append(plan)
            batch.append(plan)
        joint = [plan for plan in batch if plan.joint]
        assert len(joint) in {0, 2}, "a plan of both crews came to one"
        for one, other in pairwise(joint):
            assert one.joins == other.joins
            assert one.layout == other.layout
            if one.layout != self.layout:
                assert one.windows == other.windows
            self.joined = {name: self.held[Crew.DENOISE][name]["done"] for name in one.joins}
            assert {one.crew, other.crew} == {Crew.DENOISE, Crew.DECODE}
            assert one.deliveries == other.deliveries
        for plan in batch:
            if plan.crew is Crew.DECODE and plan.decodes:
                self.overlaps[id(plan)] = 0
        return batch

    def advance(self, crew, fail=()):
        """Let a crew finish its plan; returns it, or None when it has none."""
        plan = self.in_flight.pop(crew, None)
        if plan is None:
            return None
        report = self._carry_out(plan, fail)
        outcome = self.core.report(report)
        for name in (*outcome.failed, *outcome.finished):
            assert name not in self.ended, f"request {name} ended twice"
            self.ended.add(name)
        self.finished += outcome.finished
        self.failed += outcome.failed
        if crew is Crew.DENOISE and plan.windows and Crew.DECODE in self.in_flight:
            key = id(self.in_flight[Crew.DECODE])
            if key in self.overlaps:
                self.overlaps[key] += 1
        return plan

    def lose(self, lost=()):
        """Lose a rank: all ranks begin anew."""
        self.generation += 1
        given_up = self.core.rewind(self.generation, lost)
        self.ended |= set(given_up)
        self.forget()
        return given_up

    def _carry_out(self, plan, fail):
        held = self.held[plan.crew]
        for name in plan.releases:
            del held[name]  # released once, and only what is held
        for admit in plan.admits:
            name = admit.request.request_id
            assert name not in held
            held[name] = self._restore(plan.crew, admit)
        assert len(held) <= self.limits.requests
        failures = [name for name in fail if name in plan.touched]
        for delivery in plan.deliveries:
            self._deliver(plan.crew, delivery)
        for name in plan.joins if plan.crew is Crew.DECODE else ():
            held[name]["done"] = self.joined[name]
        for window in plan.windows:
            self._move(plan, held[window.request_id], window)
        frames = [self._decode(held, decode, failures) for decode in plan.decodes]
        commits = tuple(
            Commit(request_id=name, parts=self._write_down(plan.crew, held[name]))
            for name in plan.commits
            if name not in failures
        )
        assert len(frames) <= 1
        return StepReport(
            sequence=plan.sequence,
            generation=plan.generation,
            crew=plan.crew,
            failures=tuple(RequestFailure(request_id=i, error=ReelrayError("no")) for i in failures),
            commits=commits,
        )

    def _restore(self, crew, admit):
        parts = admit.resume or {}
        if crew is Crew.DECODE:
            assert set(parts) <= {DECODE_PART, CHUNK_PART}
            decoded = pickle.loads(parts[DECODE_PART]) if DECODE_PART in parts else 0
            return {"decoded": decoded, "clean": {}, "done": pickle.loads(parts[CHUNK_PART]) if parts else 0}
        assert DECODE_PART not in parts
        done = pickle.loads(parts[CHUNK_PART]) if parts else 0
        clean = {
            int(name.removeprefix(clean_part(""))): pickle.loads(d) for name, d in parts.items() if "clean" in name
        }
        return {"done": done, "clean": clean}

    def _write_down(self, crew, state):
        if crew is Crew.DECODE:
            return {DECODE_PART: pickle.dumps(state["decoded"])}
        clean = {clean_part(first): pickle.dumps(length) for first, length in state["clean"].items()}
        return {CHUNK_PART: pickle.dumps(state["done"]), **clean}

    def _deliver(self, crew, delivery):
        clean = self.held[crew][delivery.request_id]["clean"]
        if crew is Crew.DENOISE:
            assert clean.pop(delivery.first_latent_frame) == delivery.latent_frames
        else:
            clean[delivery.first_latent_frame] = delivery.latent_frames

    def _move(self, plan, state, window):
        steps = self.requests[window.request_id].recipe.schedule.length
        place = window.chunk * steps + window.step
        if plan.crew is Crew.DECODE:
            self.lent += 1
            assert plan.layout == self.lending.layout
            assert not self.held[Crew.DECODE][window.request_id]["clean"]  # all is decoded
        if window.step == 0 and plan.crew is Crew.DECODE:
            state["done"] = place  # its noise is drawn anew
        assert place == state["done"]
        state["done"] += 1
        if window.last and plan.crew is Crew.DENOISE:
            state["clean"][window.first_latent_frame] = window.latent_frames

    def _decode(self, held, decode, failures):
        name, state = decode.request_id, held[decode.request_id]
        first, end = decode.first_latent_frame, decode.first_latent_frame + decode.latent_frames
        assert first == state["decoded"]
        chunk = max(start for start in state["clean"] if start <= first)
        assert end <= chunk + state["clean"][chunk]
        state["decoded"] = end
        if end == chunk + state["clean"][chunk]:
            del state["clean"][chunk]
        if name in failures or name in self.ended:
            return 0
        begin, stop = FACTS.frames(first) if first else 0, FACTS.frames(end)
        assert decode.silent == (stop <= self.sent[name])
        if not decode.silent:
            assert begin == self.sent[name]
            assert self.owed[name] == 0 or self.owed[name] + stop - begin <= self.limits.frame_credit
            self.sent[name] = stop
            self.owed[name] += stop - begin
        return stop - begin

    def run(self):
        """Let both crews work to the end, in turn."""
        while self.issue() or self.in_flight:
            for crew in Crew:
                self.advance(crew)
            for name in self.requests:
                self.acknowledge(name)

    def assert_complete(self, name):
        assert self.sent[name] == self.requests[name].frames
