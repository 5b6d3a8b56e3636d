"""Sessions to which a seeded hand does what clients may do, at any moment, while they share a rank."""

import random
from dataclasses import dataclass, field

from reelray.proto.errors import ReelrayError
from reelray.proto.request import RequestId
from reelray.proto.session import Fork, Pause, Resume, Say
from reelray.proto.snapshot import SnapshotKind
from reelray.scheduler.batching import Batching
from reelray.scheduler.limits import EngineLimits
from reelray.scheduler.rollout import ENDED
from tests.support.live_cases import Drive, live_request

FRAME_BYTES = 48 * 32 * 3
MOST_PLANS = 400
WEIGHTS = {"pause": 12, "resume": 25, "fork": 8, "go_back": 7, "say": 6, "snapshot": 4, "cancel": 1}


@dataclass
class Played:
    """What came of the sessions of a play.

    Args:
        begins: First frame of each session.
        requests: What each was asked for in the end.
        cancelled: Sessions that were given up.
        seen: What happened: orders that were carried out, and sessions that shared a forward after one.
    """

    begins: dict = field(default_factory=dict)
    requests: dict = field(default_factory=dict)
    cancelled: set = field(default_factory=set)
    seen: set = field(default_factory=set)


class Play:
    """Two sessions and whatever is forked from them, driven to their ends.

    Args:
        model: The loaded checkpoint.
        rule: Of `RULES`, by which they remember.
        seed: Of the hand.
    """

    def __init__(self, model, rule, seed):
        self.rng, self.played, self.number = random.Random(f"{rule} {seed}"), Played(), 0
        pick = self.rng.choice
        limits = EngineLimits(
            requests=pick([2, 3, 9]),
            mark_chunks=pick([None, 1, 2]),
            marks=pick([1, 3]),
            commit_s=pick([None, 0.5, 3.0]),
            batching=Batching(most=pick([2, 3]), invariant=True),
        )
        self.drive = Drive(model, limits)
        self.past = {}  # of each session, what it has been through
        for name in ("a", "b"):
            request = live_request(rule, name, seed=ord(name), latent_frames=pick([6, 8, 10]))
            self.drive.submit(request)
            self.played.begins[name], self.past[name] = 0, set()

    def run(self):
        """Play to the end; returns what came of it."""
        for _ in range(MOST_PLANS):
            self._note()
            in_flight = self.rng.random() < 0.5
            if not in_flight and self.rng.random() < 0.6:
                self._order()
            plan = self.drive.step(self._order if in_flight and self.rng.random() < 0.6 else lambda: None)
            self._note()
            if plan is not None:
                self._note_plan(plan)
            if self.rng.random() < 0.02:
                self.drive.lose()
                self.played.seen.add("loss")
            if plan is None and not self._wake_all():
                return self.played
        raise AssertionError(f"the sessions {list(self.drive.core._rollouts)} do not come to their ends")

    def _live(self):
        return [name for name, rollout in self.drive.core._rollouts.items() if rollout.phase not in ENDED]

    def _order(self):
        """Do one thing to a session; what comes at a wrong moment is refused, and nothing has changed."""
        live = self._live()
        if not live:
            return
        name = self.rng.choice(live)
        (kind,) = self.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
        self.number += 1
        try:
            getattr(self, f"_{kind}")(name)
        except ReelrayError:
            return
        self.played.seen.add(kind)
        self.past[name].add(kind)

    def _pause(self, name):
        self.drive.core.tell(name, Pause())

    def _resume(self, name):
        self.drive.core.tell(name, Resume())

    def _say(self, name):
        self.drive.core.tell(name, Say(prompt=f"prompt {self.rng.randint(0, 9)}"))

    def _snapshot(self, name):
        self.drive.core.snapshot(name, self.rng.choice(list(SnapshotKind)))

    def _cancel(self, name):
        self.drive.core.cancel(name)
        self.played.cancelled.add(name)

    def _fork(self, name):
        if len(self._live()) < 4:
            self.drive.core.fork(name, RequestId(f"f{self.number}"))

    def _go_back(self, name):
        rollout, other = self.drive.core._rollouts[name], RequestId(f"g{self.number}")
        chunk = self.rng.randint(0, max(0, rollout.chunks_begun - 1))
        forked = self.drive.core.go_back(name, Fork(request_id=other, back_to=chunk))
        self.drive.videos[other] = b""
        self.played.begins[other], self.past[other] = forked.frame, {"go_back"}
        self._cancel(name)

    def _note(self):
        for forked in self.drive.forks:
            if forked.error is None:
                self.played.begins[forked.request.request_id] = forked.frame
                self.past[forked.request.request_id] = {"fork"}
        self.drive.forks.clear()
        for name, rollout in self.drive.core._rollouts.items():
            self.played.requests[name] = rollout.request

    def _note_plan(self, plan):
        for name in (*plan.parks, *plan.fetches):
            self.past[name].add("rest")
        if len(plan.windows) > 1:
            self.played.seen |= {f"shared after {kind}" for w in plan.windows for kind in self.past[w.request_id]}

    def _wake_all(self):
        """Resume all of them; returns whether any is left."""
        for name in self._live():
            self.drive.core.tell(name, Resume())
        return bool(self.drive.core._rollouts)
