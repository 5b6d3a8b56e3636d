"""A gang: several ranks that work on the same plans, their start, their watch and their new beginning.

Ranks never wait inside a collective for work: they wait on their connection. A rank that dies ends its connection at
once; one that is stopped sends no pulse; one that hangs in a collective sends pulses without progress. Any of them is
one `RankLostError`, in the middle of a step or between two. Then the lost rank is ended and started anew; the others
abort their communicators, because those of NCCL would wait in a collective for ever, and meet it under the next
generation with the checkpoint that they hold. See `gang_muster`.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import EngineError, RankLostError, UnsupportedError
from reelray.proto.layout import Layout, check_regroup
from reelray.proto.placement import Lending, check_placement
from reelray.proto.step_plan import Crew, StepPlan, StepReport
from reelray.workers.engine.frame_box import BoxAddress, FrameBox, keep_frames
from reelray.workers.engine.gang_door import Door
from reelray.workers.engine.gang_members import TICK_S, Member, RankLauncher, Stage, find_dead, hear, lose
from reelray.workers.engine.gang_muster import Muster
from reelray.workers.engine.gang_step import GangStep, tell_failure
from reelray.workers.engine.gang_wire import Assignment, Hello, Message, Pulse, Ran, Refused, Run
from reelray.workers.engine.seams import ModelLoader, SharingLoader

_LOG = logging.getLogger(__name__)
STRANGERS = 16
"""Connections that may wait at the door beside those of the ranks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GangSpec:
    """What a gang is.

    Args:
        load: Opens the checkpoint in every rank.
        layout: How the ranks that denoise share their videos.
        others: Layouts of the same ranks to which they may be regrouped between steps.
        decode_ranks: Further ranks that do nothing but decode, beside the others; 0 lets those that denoise decode.
        lending: When those help to denoise; None means never.
        start_s: Longest time until all ranks are ready.
        silence_s: Longest time without a pulse before a rank counts as lost.
        stall_s: Longest time without progress of any rank during a step before the gang counts as hung.
        lag_s: Longest time that ranks may go on with a request after one of them has failed with it: they may be
            waiting for that one in a collective.
        rejoin_s: Longest time that a rank may take to leave a gang that lost another one, before it is started anew
            too, and that ranks which hold the checkpoint may take to meet.
        attempts: How often in a row ranks may be lost while the gang is put together again or waits for work, until
            it is given up. Finished steps start the count anew; losses in a step are counted by its requests.
        threads: Threads of torch in each rank.
    """

    load: ModelLoader
    layout: Layout
    others: tuple[Layout, ...] = ()
    decode_ranks: int = 0
    lending: Lending | None = None
    start_s: float = 300.0
    silence_s: float = 5.0
    stall_s: float = 300.0
    lag_s: float = 30.0
    rejoin_s: float = 30.0
    attempts: int = 5
    threads: int = 1

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """All layouts, the one of the start first."""
        return (self.layout, *self.others)

    @property
    def ranks(self) -> int:
        """Processes in the gang."""
        return self.layout.ranks + self.decode_ranks

    def assign(self, boxes: Sequence[BoxAddress | None]) -> Assignment:
        """What the ranks are told.

        Args:
            boxes: Where each puts its frames.
        """
        return Assignment(
            ranks=self.ranks,
            layouts=self.layouts,
            decode_ranks=self.decode_ranks,
            lent=None if self.lending is None else self.lending.layout,
            load=self.load,
            threads=self.threads,
            collective_s=max(60.0, self.stall_s),
            boxes=tuple(boxes),
        )

    def __post_init__(self) -> None:
        for name in ("start_s", "silence_s", "stall_s", "lag_s", "rejoin_s", "attempts", "threads"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be greater than 0")
        check_regroup(self.layouts)
        check_placement(self.layouts, self.decode_ranks, self.lending)
        if (self.others or self.lending) and isinstance(self.load, SharingLoader) and self.load.shares:
            raise UnsupportedError(
                "sharded weights belong to one layout; a gang that regroups or lends ranks needs others"
            )


class Gang:
    """Implements `Channel` on several ranks.

    Args:
        launcher: Starts the ranks.
        spec: What they are to be.
        clock: Monotonic seconds.
    """

    def __init__(self, launcher: RankLauncher, spec: GangSpec, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._launcher = launcher
        self._spec = spec
        self._clock = clock
        self._generation = -1
        self._members: list[Member] = []
        self._steps: dict[Crew | None, GangStep] = {}
        self._door = Door(launcher.host, interface=launcher.interface, backlog=spec.ranks + STRANGERS)
        self._folder = tempfile.TemporaryDirectory(prefix="reelray-gang-")
        self._boxes = [FrameBox() for _ in range(spec.ranks)]
        self._losses = 0
        self._ready_at = 0.0

    @property
    def description(self) -> EngineDescription:
        """What runs here: rank 0's words, with the device counted."""
        first = self._members[0].description
        assert first is not None
        return replace(
            first,
            device=f"{len(self._members)} x {first.device}",
            layout=self._spec.layout,
            decode_ranks=self._spec.decode_ranks,
        )

    @property
    def generation(self) -> int:
        """Grows with every start and every loss."""
        return self._generation

    @property
    def is_whole(self) -> bool:
        """Whether every rank has met the others; a loss shows once it is noticed."""
        return len(self._members) == self._spec.ranks and all(m.stage is Stage.READY for m in self._members)

    @property
    def hellos(self) -> list[Hello]:
        """What the ranks said when they came, in the order of the ranks; without those that have not come yet."""
        return [member.hello for member in self._members if member.hello is not None]

    def pids(self) -> list[int]:
        """Process ids of the ranks, for whoever watches or breaks them."""
        return [hello.pid for hello in self.hellos]

    def start(self) -> int:
        """Start the ranks; returns the generation.

        Raises:
            EngineError: They are not all ready in time; the message says what is missing.
            ReelrayError: The checkpoint cannot be opened, as the rank said it.
        """
        try:
            return self._form()
        except RankLostError as lost:
            self._count_loss(lost)
            raise

    def issue(self, plan: StepPlan) -> None:
        """See `Channel`."""
        if (plan.crew is not None) != bool(self._spec.decode_ranks) or plan.crew in self._steps:
            raise EngineError(
                f"plan {plan.sequence} is for crew {plan.crew}, which has one in flight or is none: the core and the "
                f"gang must be told of the same decode ranks, here {self._spec.decode_ranks}"
            )
        step = GangStep(plan=plan, ranks=self._ranks_of(plan.crew), moved_at=self._clock())
        self._steps[plan.crew] = step
        for rank in step.ranks:
            member = self._members[rank]
            member.seen_at = max(member.seen_at, self._clock() - self._spec.silence_s / 2)
            self._send(member, Run(plan=plan))

    def collect(self) -> StepReport | None:
        """See `Channel`."""
        done = self._find_done()
        if done is None:
            self._hear()
            self._judge()
            done = self._find_done()
        if done is None:
            return None
        if done.failure is not None and done.plan.joint:
            # Ranks of the other crew are not in this step: whose peer has died looks like one that failed.
            asked = self._members[done.ranks[0]]
            if (dead := find_dead(self._members, asked, self._clock)) is not asked:
                raise self._lost(dead, dead.process.last_words())
        self._losses = 0
        return self._steps.pop(done.plan.crew).merge()

    def execute(self, plan: StepPlan) -> StepReport:
        """Carry out one plan and wait for its report.

        Raises:
            RankLostError: A rank died or stands still.
            EngineError: A rank refused the plan.
        """
        self.issue(plan)
        while (report := self.collect()) is None:
            pass
        return keep_frames(report)

    def check(self) -> None:
        """See `Channel`."""
        try:
            while self._hear(timeout_s=0.0):
                pass
            self._judge()
        except RankLostError as lost:
            self._count_loss(lost)
            raise

    def rebuild(self) -> int:
        """See `Channel`."""
        while True:
            try:
                return self._form()
            except RankLostError as lost:
                self._count_loss(lost)

    def close(self) -> None:
        """End the ranks."""
        self._door.close()
        self._end_ranks()
        for box in self._boxes:
            box.close()
        self._folder.cleanup()

    def _form(self) -> int:
        """Form the next generation.

        Raises:
            RankLostError: A rank was lost when it met the others; the next generation may have more luck.
        """
        self._generation += 1
        self._steps.clear()
        before = set(self.pids())
        muster = Muster(
            self._members,
            generation=self._generation,
            spec=self._spec,
            launcher=self._launcher,
            door=self._door,
            clock=self._clock,
            on_loss=self._count_loss,
        )
        try:
            muster.gather(self._spec.assign([box.address for box in self._boxes]))
            muster.meet((Path(self._folder.name) / f"meeting-{self._generation}").as_uri())
            self._check_equal()
        except RankLostError:
            raise
        except BaseException:
            self._end_ranks()
            raise
        self._ready_at = self._clock()
        if before:
            kept = len(before.intersection(self.pids()))
            _LOG.warning("generation %d is ready; %d ranks kept their weights", self._generation, kept)
        return self._generation

    def _count_loss(self, lost: RankLostError) -> None:
        """Give up when ranks are lost again and again, or at the first start.

        Raises:
            EngineError: That is so.
        """
        if self._ready_at and self._clock() - self._ready_at > self._spec.start_s:
            self._losses = 0  # it had been well for a while
        self._losses += 1
        if self._generation == 0 and not self._ready_at:
            self._end_ranks()
            raise EngineError(f"the ranks do not start: {lost.message}", ids=lost.ids) from lost
        if self._losses >= self._spec.attempts:
            self._end_ranks()
            raise EngineError(f"ranks were lost {self._losses} times in a row, at last: {lost.message}", ids=lost.ids)

    def _check_equal(self) -> None:
        digests = {m.description.digest for m in self._members if m.description is not None}
        if len(digests) > 1:
            raise EngineError(f"ranks hold different weights ({', '.join(sorted(digests))}); copy the same checkpoint")

    def _ranks_of(self, crew: Crew | None) -> range:
        denoise, everyone = self._spec.layout.ranks, self._spec.ranks
        crews: dict[Crew | None, range] = {Crew.DENOISE: range(denoise), Crew.DECODE: range(denoise, everyone)}
        return crews.get(crew, range(everyone))

    def _find_done(self) -> GangStep | None:
        return next((step for step in self._steps.values() if step.is_done), None)

    def _hear(self, timeout_s: float = TICK_S) -> bool:
        """Take in one message of each rank; returns whether there were any."""
        found = hear(self._members, self._clock, timeout_s)
        for member, message in found:
            if message is None:
                raise self._lost(member, member.process.last_words())
            steps = [step for step in self._steps.values() if member.rank in step.ranks]
            if isinstance(message, Pulse) and message.progress != member.progress:
                member.progress = message.progress
                for step in steps:
                    step.moved_at = self._clock()
            elif isinstance(message, Ran):
                for step in steps:
                    if step.answers(message.report):
                        self._take_report(
                            step, member.rank, self._boxes[member.rank].take(message.report, message.boxed)
                        )
            elif isinstance(message, Refused):
                dead = find_dead(self._members, member, self._clock)
                raise self._lost(dead, message.error.message if dead is member else dead.process.last_words())
        return bool(found)

    def _take_report(self, step: GangStep, rank: int, report: StepReport) -> None:
        step.reports[rank], step.moved_at = report, self._clock()
        for failure in report.failures[:1]:
            tell_failure(self._steps.values(), step, failure, self._clock())

    def _judge(self) -> None:
        now, spec = self._clock(), self._spec
        for member in self._members:
            if now - member.seen_at > spec.silence_s:
                raise self._lost(member, f"silent for {now - member.seen_at:.1f} s")
        for step in self._steps.values():
            step.judge(now, lag_s=spec.lag_s, stall_s=spec.stall_s, generation=self._generation)

    def _send(self, member: Member, message: Message) -> None:
        if not member.send(message):
            raise self._lost(member, member.process.last_words())

    def _lost(self, member: Member, why: str) -> RankLostError:
        return lose(member, why, ranks=len(self._members), generation=self._generation)

    def _end_ranks(self) -> None:
        for member in self._members:
            member.end()
        self._members.clear()
