"""Forms engine steps: pure decisions, no threads, no clock of its own, no tensors.

One step is in flight at a time. It may admit queued requests, regroup the ranks (`reelray/scheduler/lanes.py` has the
rule), and on every lane move windows and decode one piece:

- the window goes to the lane's running request whose last window lies furthest back (round robin, ties by arrival), so
  that a short clip is not held up behind a long one. Every window has forwards of its own.
- ranks that split the layers (`pipe`) would wait for each other over one window: they get one of each of up to `pipe`
  requests, in the same turn. A request that was in flight when a gang was lost goes alone until its next commit: it may
  be what ends ranks, and whoever goes with it is blamed too.
- the decode turns the same way, over the requests whose next piece is clean and whose client has room for its frames.

A request that ended (finished, cancelled, failed) is forgotten as soon as no step of its own is in flight, and released
on the ranks in the next step, once; releases go before admits, so its id may be used again.
"""

from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from typing import TypeVar

from reelray.proto.errors import EngineError, InputError, UnsupportedError
from reelray.proto.events import Progress
from reelray.proto.layout import Layout
from reelray.proto.model_facts import ModelFacts
from reelray.proto.patching import NO_STREAMS, check_patched_layout
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.step_plan import DecodeStep, StepOutcome, StepPlan, StepReport, WindowStep
from reelray.scheduler.chunks import cut_chunks
from reelray.scheduler.lanes import PATIENCE, Lanes
from reelray.scheduler.limits import EngineLimits
from reelray.scheduler.rollout import ENDED, Phase, Rollout

Work = TypeVar("Work", WindowStep, DecodeStep)


class EngineCore:
    """Decides what the ranks do next.

    Args:
        limits: How much the engine takes on.
        layouts: Layouts between which the gang may be regrouped, the one of its start first; by default there is one
            lane, and plans do not speak of it.
        generation: Generation of the gang of ranks; stamped on every plan.

    Raises:
        InputError: The layouts do not fit one gang.
        UnsupportedError: A gang cannot be switched between them.
    """

    def __init__(
        self, limits: EngineLimits | None = None, *, layouts: Sequence[Layout] = (Layout(),), generation: int = 0
    ) -> None:
        self._lanes = Lanes(layouts)
        self._limits = limits or EngineLimits()
        self._generation = generation
        self._sequence = 0
        self._turn = 0  # grows with every window and piece, which so have an order within a step too
        self._rollouts: dict[RequestId, Rollout] = {}
        self._releases: list[RequestId] = []
        self._issued: StepPlan | None = None
        self._issued_at_s = 0.0

    def submit(self, request: RenderRequest, facts: ModelFacts) -> None:
        """Queue a request.

        Raises:
            SizeError: Its size does not fit the model.
            InputError: A request of this id is here already.
            UnsupportedError: It asks for patches, and is a stream, or a layout of this gang has no place for them.
        """
        if request.patching is not None:
            self._check_patching(request, facts)
        if request.request_id in self._rollouts:
            raise InputError(f"request {request.request_id} is here already", ids={"request": request.request_id})
        self._rollouts[request.request_id] = Rollout(request, facts, self._limits)

    def cancel(self, request_id: RequestId) -> bool:
        """Stop a request at the next step; returns whether it was still going on."""
        rollout = self._rollouts.get(request_id)
        if rollout is None or rollout.phase in ENDED:
            return False
        if rollout.phase is Phase.QUEUED:
            del self._rollouts[request_id]
        else:
            rollout.phase = Phase.CANCELLED
            if self._issued is None:
                self._retire()
        return True

    def acknowledge(self, request_id: RequestId, frames: int) -> None:
        """Give back decode credit: the client is done with `frames` frames. Ended requests are ignored."""
        rollout = self._rollouts.get(request_id)
        if rollout is not None and rollout.phase not in ENDED:
            rollout.acknowledge(frames)

    def next_step(self, now_s: float) -> StepPlan | None:
        """Form the next step, or None while one is in flight or nothing can be done.

        Args:
            now_s: Seconds on the caller's monotonic clock.
        """
        if self._issued is not None:
            return None
        admitted = self._take_admits()
        at_work = self._at_work()
        if not (self._releases or admitted or any(rollout.has_work for rollout in at_work)):
            return None
        releases, self._releases = tuple(self._releases), []
        moves = self._lanes.arrange(at_work)
        windows, decodes = self._pick_windows(), self._pick_decodes()
        self._issued = StepPlan(
            sequence=self._sequence,
            generation=self._generation,
            layout=self._lanes.named,
            releases=releases,
            moves=moves,
            admits=tuple(rollout.admit() for rollout in admitted),
            windows=windows,
            decodes=decodes,
            commits=tuple(w.request_id for w in windows if self._rollouts[w.request_id].wants_commit(w, now_s)),
        )
        self._issued_at_s = now_s
        self._sequence += 1
        return self._issued

    def report(self, report: StepReport) -> StepOutcome:
        """Take in what came of the step in flight.

        Raises:
            EngineError: The report answers no step in flight of this generation.
        """
        plan = self._issued
        if plan is None or (report.sequence, report.generation) != (plan.sequence, plan.generation):
            raise EngineError(f"report of step {report.generation}.{report.sequence}, which is not in flight")
        self._issued = None
        failed = tuple(f.request_id for f in report.failures if self._goes_on(f.request_id))
        for request_id in failed:
            self._rollouts[request_id].phase = Phase.FAILED
        progress = self._advance(plan)
        for commit in report.commits:
            if self._goes_on(commit.request_id):
                self._rollouts[commit.request_id].committed(commit.parts, self._issued_at_s)
        finished = tuple(i for i, rollout in self._rollouts.items() if rollout.phase is Phase.FINISHED)
        self._retire()
        return StepOutcome(progress=progress, finished=finished, failed=failed)

    def rewind(self, generation: int, lost: Collection[int] = ()) -> tuple[RequestId, ...]:
        """Go on with a new gang of ranks, which knows nothing: every request returns to its last commit.

        Args:
            generation: Of the new gang; greater than the one before.
            lost: Ranks of the old gang that were lost, where known: requests on other lanes have no part in it.

        Returns:
            Requests that are given up, because too many gangs were lost while a step of theirs was in flight.

        Raises:
            ValueError: The generation is not greater.
        """
        if generation <= self._generation:
            raise ValueError(f"generation is {generation}; it must be greater than {self._generation}")
        plan, self._issued = self._issued, None
        self._generation, self._sequence, self._releases = generation, 0, []
        for request_id in _concerned(plan, lost):
            if request_id in self._rollouts:
                self._rollouts[request_id].losses += 1
                self._rollouts[request_id].suspect = True
        given_up = [i for i, rollout in self._rollouts.items() if rollout.losses >= self._limits.losses]
        gone = [i for i, rollout in self._rollouts.items() if rollout.phase in ENDED or i in given_up]
        for request_id in gone:
            del self._rollouts[request_id]
        for rollout in self._rollouts.values():
            rollout.rewind()
        return tuple(given_up)

    def in_flight_s(self, now_s: float) -> float | None:
        """Seconds since the step in flight was issued, or None; liveness is judged by it."""
        return None if self._issued is None else now_s - self._issued_at_s

    def phase(self, request_id: RequestId) -> Phase | None:
        """Where a request is; None once it is forgotten."""
        rollout = self._rollouts.get(request_id)
        return None if rollout is None else rollout.phase

    def _retire(self) -> None:
        ended = [i for i, rollout in self._rollouts.items() if rollout.phase in ENDED]
        for request_id in ended:
            del self._rollouts[request_id]
        self._releases += ended

    def _take_admits(self) -> list[Rollout]:
        queued = [r for r in self._rollouts.values() if r.phase is Phase.QUEUED]
        room = self._limits.requests - (len(self._rollouts) - len(queued))
        admitted = queued[: max(0, room)]
        for rollout in admitted:
            rollout.phase = Phase.ADMITTED
        return admitted

    def _at_work(self) -> list[Rollout]:
        """Requests on the ranks, or about to be, that had something to do not long ago; in order of arrival."""
        held = [r for r in self._rollouts.values() if r.phase in {Phase.ADMITTED, Phase.RUNNING}]
        for rollout in held:
            if rollout.phase is Phase.ADMITTED or rollout.has_work:
                rollout.worked_at = self._sequence
        return [rollout for rollout in held if self._sequence - rollout.worked_at < PATIENCE]

    def _pick_windows(self) -> tuple[WindowStep, ...]:
        return self._pick(Rollout.next_window, "window_turn", most=self._lanes.layout.pipe)

    def _pick_decodes(self) -> tuple[DecodeStep, ...]:
        return self._pick(Rollout.next_decode, "decode_turn", most=1)

    def _pick(self, next_of: Callable[[Rollout], Work | None], turn: str, *, most: int) -> tuple[Work, ...]:
        """For every lane, work of those requests of its own whose turn it is."""
        picked: list[Work] = []
        for place in self._lanes.places():
            here = [rollout for rollout in self._rollouts.values() if rollout.place == place]
            ready = [
                (rollout, work)
                for rollout in sorted(here, key=attrgetter(turn))
                if (work := next_of(rollout)) is not None
            ]
            for rollout, work in _who_goes_together(ready, most):
                self._turn += 1
                setattr(rollout, turn, self._turn)
                picked.append(work)
        return tuple(picked)

    def _check_patching(self, request: RenderRequest, facts: ModelFacts) -> None:
        for layout in self._lanes.layouts:
            check_patched_layout(layout)
        if len(cut_chunks(request.recipe.chunking, facts.latent_frames(request.frames))) > 1:
            raise UnsupportedError(NO_STREAMS)

    def _advance(self, plan: StepPlan) -> tuple[Progress, ...]:
        moved = [
            self._rollouts[a.request.request_id].admitted() for a in plan.admits if self._goes_on(a.request.request_id)
        ]
        moved += [self._rollouts[w.request_id].window_moved() for w in plan.windows if self._goes_on(w.request_id)]
        moved += [self._rollouts[d.request_id].piece_decoded() for d in plan.decodes if self._goes_on(d.request_id)]
        return tuple(moved)

    def _goes_on(self, request_id: RequestId) -> bool:
        rollout = self._rollouts.get(request_id)
        return rollout is not None and rollout.phase not in ENDED


def _who_goes_together(ready: Sequence[tuple[Rollout, Work]], most: int) -> Sequence[tuple[Rollout, Work]]:
    """The first, and those behind it that may go with it."""
    if not ready or ready[0][0].suspect:
        return ready[:1]
    return [one for one in ready if not one[0].suspect][:most]


def _concerned(plan: StepPlan | None, lost: Collection[int]) -> set[RequestId]:
    """Requests with work of their own in a plan, on lost ranks where these are known."""
    if plan is None:
        return set()
    ranks = {request_id: plan.ranks_of(request_id) for request_id in plan.touched}
    return {i for i, at in ranks.items() if at is None or not lost or not at.isdisjoint(lost)}
