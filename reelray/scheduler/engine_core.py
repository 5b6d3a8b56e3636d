"""Forms engine steps: pure decisions, no threads, no clock of its own, no tensors.

Where all ranks denoise and decode, one step is in flight at a time. It may admit queued requests, regroup the ranks
(`reelray/scheduler/lanes.py` has the rule), and on every lane move windows and decode one piece:

- the window goes to the lane's running request whose last window lies furthest back (round robin, ties by arrival), so
  that a short clip is not held up behind a long one. Where `EngineLimits.batching` says that it pays and a lane is one
  rank, others of the same shape share its forwards (`reelray/scheduler/batching.py` has the rule), whatever chunk, step
  and prompt each is at; who joins or leaves does so between two steps.
- ranks that split the layers (`pipe`) would wait for each other over one window: they get one of each of up to `pipe`
  requests, in the same turn. A request that was in flight when a gang was lost goes alone until its next commit: it may
  be what ends ranks, and whoever goes with it is blamed too.
- the decode turns the same way, over the requests whose next piece is clean and whose client has room for its frames.

Where some ranks do nothing but decode, there are two crews, each with one step in flight: windows are moved while a
piece is decoded, as far as `chunks_ahead` lets them. What couples the crews are deliveries of clean latents. They are
told to both crews at once, when neither has a step in flight: so neither waits inside a collective for the other's
work, and there is nothing to take back when a request ends. The decode crew waits for a step of the other one at most,
and only when the request whose turn it is has nothing delivered; where decode is the slower of the two, the others wait
for room anyway.

With `Lending`, ranks that only decode help to denoise while nothing is to be decoded (`reelray/scheduler/lending.py`
says when that pays): both crews then have plans with the same window, and the next ones are formed when both are done.

A request that ended (finished, cancelled, failed) is forgotten as soon as no step of its own is in flight and no piece
of it is late, and released on the ranks in the next step, once; releases go before admits, so its id may be used again.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from reelray.proto.errors import EndedError, InputError, ResourceError, UnsupportedError
from reelray.proto.events import Progress
from reelray.proto.layout import Layout, check_remembering_layout
from reelray.proto.model_facts import ModelFacts
from reelray.proto.patching import NO_STREAMS, check_patched_layout
from reelray.proto.placement import Lending, check_placement
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.session import Fork, Forked, Order, Standing
from reelray.proto.snapshot import Snapshot, SnapshotKind
from reelray.proto.step_plan import Crew, StepOutcome, StepPlan, StepReport
from reelray.scheduler.amendments import go_back
from reelray.scheduler.batching import Batching
from reelray.scheduler.chunks import cut_chunks
from reelray.scheduler.copies import Copies
from reelray.scheduler.crew_line import CrewLine
from reelray.scheduler.limits import EngineLimits
from reelray.scheduler.live import carry_out
from reelray.scheduler.marks import Marks
from reelray.scheduler.putting_down import take_up
from reelray.scheduler.resting import note_report
from reelray.scheduler.rollout import ENDED, Phase, Rollout
from reelray.scheduler.roster import Roster
from reelray.scheduler.sparsity_check import check_sparsity
from reelray.scheduler.step_forming import StepForming


class EngineCore:
    """Decides what the ranks do next.

    Args:
        limits: How much the engine takes on.
        layouts: Layouts between which the gang may be regrouped, the one of its start first; by default there is one
            lane, and plans do not speak of it.
        decode_ranks: Ranks behind those of the layout that do nothing but decode.
        lending: When these help to denoise; None means never.
        generation: Generation of the gang of ranks; stamped on every plan.

    Raises:
        InputError: The layouts do not fit one gang.
        UnsupportedError: A gang cannot be switched between them.
    """

    def __init__(
        self,
        limits: EngineLimits | None = None,
        *,
        layouts: Sequence[Layout] = (Layout(),),
        decode_ranks: int = 0,
        lending: Lending | None = None,
        generation: int = 0,
    ) -> None:
        check_placement(layouts, decode_ranks, lending)
        self._limits = _fit(limits or EngineLimits(), layouts, lending)
        self._roster = Roster(self._limits)
        self._rollouts = self._roster.rollouts
        self._marks = Marks(self._limits)
        self._forming = StepForming(
            self._roster,
            layouts,
            decode_ranks=decode_ranks,
            lending=lending,
            generation=generation,
            in_step=self._limits.batching.invariant,
            marks=self._marks,
        )
        self._lines = self._forming.lines
        self._copies = Copies(self._rollouts, len(self._lines))

    def submit(self, request: RenderRequest, facts: ModelFacts, snapshot: Snapshot | None = None) -> None:
        """Queue a request, or what goes on from a snapshot of it.

        Raises:
            SizeError: Its size, or places of what it remembers, do not fit the model.
            InputError: A request of this id is here already.
            UnsupportedError: It asks for patches, and is a stream, or a layout of this gang has no place for them; or
                it asks for a decoder that is not there.
        """
        _check_model(request, facts)
        _check_layouts(request, facts, self._forming.layouts)
        _check_name({*self._rollouts, *self._copies.names}, request.request_id)
        rollout = Rollout(request, facts, self._limits)
        if snapshot is not None:
            take_up(rollout, snapshot)
        self._rollouts[request.request_id] = rollout

    def cancel(self, request_id: RequestId) -> bool:
        """Stop a request at the next step; returns whether it was still going on."""
        rollout = self._rollouts.get(request_id)
        if rollout is None or rollout.phase in ENDED:
            return False
        if rollout.phase is Phase.QUEUED:
            del self._rollouts[request_id]
            self._copies.forget(request_id)
            self._dismiss(self._marks.forget(request_id))
        else:
            rollout.phase = Phase.CANCELLED
            self._retire()
        return True

    def tell(self, request_id: RequestId, order: Order) -> Standing:
        """Change a request while it runs; see `reelray/scheduler/live.py`.

        Raises:
            EndedError: It is not here or has ended.
            InputError: The order comes too late.
            SizeError: The model cannot place so many frames, or scenes.
            UnsupportedError: The model makes whole clips, or cannot begin another scene.
        """
        rollout = _find(self._rollouts, request_id)
        standing, amend = carry_out(rollout, order)
        if amend is not None and rollout.phase is not Phase.QUEUED:
            for line in self._lines:
                line.amend(amend)
        if standing.finished:
            self._retire()
        return standing

    def snapshot(self, request_id: RequestId, kind: SnapshotKind) -> None:
        """Put a request down as soon as a step can; the outcome of that step has the snapshot, and it goes on.

        Raises:
            EndedError: It is not here or has ended.
            InputError: Another snapshot of it is on its way.
        """
        _find(self._rollouts, request_id)
        self._copies.put_down(request_id, kind)

    def fork(self, request_id: RequestId, other: RequestId) -> None:
        """Fork a request as soon as a step can; the outcome of that step says what came of it.

        Args:
            request_id: Which; it goes on.
            other: Name of the other one.

        Raises:
            InputError: It is not here or has ended, a snapshot or another fork of it is on its way, or the name is in
                use.
            ResourceError: The engine has as many requests as it takes on.
        """
        rollout = _find(self._rollouts, request_id)
        _check_name({*self._rollouts, *self._copies.names}, other)
        if self._roster.places_left <= len(self._copies.names) and not rollout.paused:
            raise ResourceError(
                f"the engine has {self._limits.requests} streams, as many as it takes on; stop or pause one first",
                ids={"request": str(request_id)},
            )
        self._copies.fork(request_id, other)

    def go_back(self, request_id: RequestId, fork: Fork) -> Forked:
        """Queue another request that goes on at the beginning of a chunk of one that is here.

        Raises:
            InputError: It is not here or has ended, or the name is in use.
        """
        rollout, chunk = _find(self._rollouts, request_id), fork.back_to or 0
        if chunk >= len(rollout.chunks):
            raise InputError(f"chunk {chunk} is not one of {len(rollout.chunks)}", ids={"request": str(request_id)})
        _check_name({*self._rollouts, *self._copies.names}, fork.request_id)
        request = replace(go_back(rollout.request, rollout.chunks, chunk), request_id=fork.request_id)
        other = self._marks.go_back(rollout, request, chunk)
        self._rollouts[fork.request_id] = other
        return Forked(source=request_id, request=request, frame=other.frames_sent)

    def acknowledge(self, request_id: RequestId, frames: int) -> None:
        """Give back decode credit: the client is done with `frames` frames. Ended requests are ignored."""
        rollout = self._rollouts.get(request_id)
        if rollout is not None and rollout.phase not in ENDED:
            rollout.acknowledge(frames)

    def next_step(self, now_s: float) -> StepPlan | None:
        """Form the next step, or None while one is in flight or nothing can be done; ask until there is none.

        Args:
            now_s: Seconds on the caller's monotonic clock.
        """
        formed = self._forming.formed
        if not formed:
            self._forming.form(now_s)
        return formed.popleft() if formed else None

    def report(self, report: StepReport) -> StepOutcome:
        """Take in what came of a step in flight.

        Raises:
            EngineError: The report answers no step in flight of this generation.
        """
        line = next((line for line in self._lines if line.crew is report.crew), self._lines[0])
        plan = line.answer(report)
        failures = [failure.request_id for failure in report.failures]
        like = {admit.request.request_id for admit in plan.admits if admit.like is not None}
        failed = tuple(name for name in failures if name not in like and self._goes_on(name))
        for request_id in failed:
            self._rollouts[request_id].phase = Phase.FAILED
        note_report([r for i, r in self._rollouts.items() if self._goes_on(i)], plan, report.waiting)
        progress = self._advance(plan, report)
        for commit in report.commits:
            if self._goes_on(commit.request_id):
                self._rollouts[commit.request_id].committed(commit.parts, line.issued_at_s, plan.crew)
        snapshots = self._copies.take_snapshots(report)
        self._dismiss(self._marks.note(plan, {*failures, *report.refused}, self._rollouts))
        forks = tuple(self._begin_fork(*made) for made in self._copies.take_forks(plan.forks, report))
        finished = _list_finished(self._rollouts, (*report.arrived, *(decode.request_id for decode in plan.decodes)))
        self._retire()
        return StepOutcome(progress=progress, finished=finished, failed=failed, snapshots=snapshots, forks=forks)

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
        if generation <= self._forming.generation:
            raise ValueError(f"generation is {generation}; it must be greater than {self._forming.generation}")
        concerned = {i for line in self._lines for i in _concerned(line, lost)}
        self._forming.restart(generation)
        for request_id in concerned:
            if request_id in self._rollouts:
                self._rollouts[request_id].losses += 1
                self._rollouts[request_id].suspect = True
        given_up = [i for i, rollout in self._rollouts.items() if rollout.losses >= self._limits.losses]
        gone = [i for i, rollout in self._rollouts.items() if rollout.phase in ENDED or i in given_up]
        for request_id in gone:
            del self._rollouts[request_id]
        for rollout in self._rollouts.values():
            rollout.rewind()
        self._copies.begin_anew()
        self._marks.forget_all()
        return tuple(given_up)

    def in_flight_s(self, now_s: float) -> float | None:
        """Seconds since the oldest step in flight was issued, or None; liveness is judged by it."""
        ages = [now_s - line.issued_at_s for line in self._lines if not line.is_free]
        return max(ages) if ages else None

    def phase(self, request_id: RequestId) -> Phase | None:
        """Where a request is; None once it is forgotten."""
        return self._rollouts[request_id].phase if request_id in self._rollouts else None

    def _retire(self) -> None:
        """Forget requests that ended and of which nothing is under way; the ranks are to forget them too."""
        busy = {i for line in self._lines if line.issued is not None for i in line.issued.touched}
        for request_id in [i for i, r in self._rollouts.items() if _is_over(r) and i not in busy]:
            del self._rollouts[request_id]
            self._copies.forget(request_id)
            self._dismiss([request_id, *self._marks.forget(request_id)])

    def _begin_fork(self, rollout: Rollout, forked: Forked) -> Forked:
        if forked.error is None and self._goes_on(forked.source):
            self._rollouts[forked.request.request_id] = rollout
            return forked
        self._dismiss([forked.request.request_id])
        return replace(forked, error=forked.error or _ended(forked.source))

    def _dismiss(self, names: Iterable[RequestId]) -> None:
        for name in names:
            for line in self._lines:
                line.dismiss(name)

    def _advance(self, plan: StepPlan, report: StepReport) -> tuple[Progress, ...]:
        helps = plan.crew is Crew.DECODE  # what it does for the other crew is in the other one's plan
        admits, windows = ((), ()) if helps else (plan.admits, plan.windows)
        names = [admit.request.request_id for admit in admits]
        moved = [self._rollouts[name].admitted() for name in names if self.phase(name) is Phase.ADMITTED]
        there = {i: rollout for i, rollout in self._rollouts.items() if self._goes_on(i) and i not in report.waiting}
        moved += [there[w.request_id].window_moved() for w in windows if w.request_id in there]
        decoded = _find_decoded(self._rollouts, there, plan, report)
        return (*moved, *(rollout.piece_decoded() for rollout in decoded))

    def _goes_on(self, request_id: RequestId) -> bool:
        return self.phase(request_id) not in {None, *ENDED}


def _list_finished(rollouts: Mapping[RequestId, Rollout], decoded: Iterable[RequestId]) -> tuple[RequestId, ...]:
    names = dict.fromkeys(name for name in decoded if name in rollouts)
    return tuple(name for name in names if rollouts[name].phase is Phase.FINISHED)


def _is_over(rollout: Rollout) -> bool:
    return rollout.phase in ENDED and not rollout.is_late


def _find_decoded(
    rollouts: Mapping[RequestId, Rollout], there: Mapping[RequestId, Rollout], plan: StepPlan, report: StepReport
) -> list[Rollout]:
    """Whose pieces a report brings: late ones of plans before, whatever became of their requests since, and its own."""
    for name in filter(rollouts.__contains__, (*report.arrived, *report.late)):
        rollouts[name].is_late = name in report.late
    arrived = [rollouts[name] for name in report.arrived if name in rollouts and rollouts[name].phase not in ENDED]
    names = [decode.request_id for decode in plan.decodes if decode.request_id not in report.late]
    return arrived + [there[name] for name in names if name in there]


def _fit(limits: EngineLimits, layouts: Sequence[Layout], lending: Lending | None) -> EngineLimits:
    """Windows share forwards where a lane is one rank: several would have to agree on who of them failed."""
    if lending is None and all(layout.lane == 1 for layout in layouts):
        return limits
    return replace(limits, batching=Batching())


def _find(rollouts: Mapping[RequestId, Rollout], request_id: RequestId) -> Rollout:
    rollout = rollouts.get(request_id)
    if rollout is not None and rollout.phase not in ENDED:
        return rollout
    raise _ended(request_id)


def _ended(request_id: RequestId) -> EndedError:
    return EndedError(
        f"request {request_id} is not here, or all of it is made; frames may wait to be taken",
        ids={"request": str(request_id)},
    )


def _check_name(taken: Collection[RequestId], request_id: RequestId) -> None:
    if request_id in taken:
        raise InputError(f"request {request_id} is here already", ids={"request": str(request_id)})


def _check_model(request: RenderRequest, facts: ModelFacts) -> None:
    decoder = request.recipe.decoder
    if decoder not in facts.decoders:
        raise UnsupportedError(f"decoder is {decoder}; the model here has {', '.join(facts.decoders)}")
    facts.check_memory(request.recipe, frames=request.frames, scenes=request.scenes)


def _check_layouts(request: RenderRequest, facts: ModelFacts, layouts: Sequence[Layout]) -> None:
    if request.patching is not None:
        for layout in layouts:
            check_patched_layout(layout)
        if len(cut_chunks(request.recipe.chunking, facts.latent_frames(request.frames))) > 1:
            raise UnsupportedError(NO_STREAMS)
    check_sparsity(request, layouts)
    if request.recipe.memory is not None or request.recipe.chunking.stagger is not None:
        for layout in layouts:
            check_remembering_layout(layout)


def _concerned(line: CrewLine, lost: Collection[int]) -> set[RequestId]:
    """Requests with work of their own in the plan in flight, on lost ranks where these are known."""
    plan, theirs = line.issued, [rank for rank in lost if line.has(rank)]
    if plan is None or (lost and not theirs):
        return set()
    ranks = {request_id: plan.ranks_of(request_id) for request_id in plan.touched}
    return {i for i, at in ranks.items() if at is None or not lost or not at.isdisjoint(theirs)}
