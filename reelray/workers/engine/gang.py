"""A gang: several ranks that work on the same plans, their start, their watch and their new beginning.

Ranks never wait inside a collective for work: they wait on their connection. A rank that dies ends its connection at
once; one that is stopped sends no pulse; one that hangs in a collective sends pulses without progress. Any of them is
one `RankLostError`. Then all ranks are ended, because those of NCCL that are left would wait in their collective for
ever, and new ones are started under the next generation.
"""

import logging
import queue
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Listener, wait
from pathlib import Path
from typing import Any, Protocol

from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import EngineError, RankLostError, UnsupportedError
from reelray.proto.layout import Layout, check_regroup
from reelray.proto.step_plan import RequestFailure, StepPlan, StepReport
from reelray.workers.engine.gang_wire import (
    Assignment,
    Hello,
    Invitation,
    Message,
    Pulse,
    Ran,
    Ready,
    Refused,
    Run,
    Wire,
    digest_code,
)
from reelray.workers.engine.merge_reports import merge_reports
from reelray.workers.engine.seams import ModelLoader

_LOG = logging.getLogger(__name__)
TICK_S = 0.1
LAST_WORDS_S = 0.5
"""How long the leader waits for the death that explains a rank's complaint."""


class RankProcess(Protocol):
    """A started rank, seen from its launcher."""

    def is_alive(self) -> bool:
        """Whether the process runs."""
        ...

    def kill(self) -> None:
        """End it, and wait until it is gone."""
        ...

    def last_words(self) -> str:
        """What is known of its end: exit code, end of its error output."""
        ...


class RankLauncher(Protocol):
    """Starts rank processes: here, or through Ray."""

    host: str
    interface: str | None

    def launch(self, invitation: Invitation) -> RankProcess:
        """Start one rank.

        Raises:
            EngineError: There is no place for it.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class GangSpec:
    """What a gang is.

    Args:
        load: Opens the checkpoint in every rank.
        layout: How the ranks that denoise share their videos.
        others: Layouts of the same ranks to which they may be regrouped between steps.
        decode_ranks: Further ranks that do nothing but decode, beside the others; 0 lets those that denoise decode.
        start_s: Longest time until all ranks are ready.
        silence_s: Longest time without a pulse before a rank counts as lost.
        stall_s: Longest time without progress of any rank during a step before the gang counts as hung.
        lag_s: Longest time that ranks may go on with a request after one of them has failed with it: they may be
            waiting for that one in a collective.
        threads: Threads of torch in each rank.
    """

    load: ModelLoader
    layout: Layout
    others: tuple[Layout, ...] = ()
    decode_ranks: int = 0
    start_s: float = 300.0
    silence_s: float = 5.0
    stall_s: float = 300.0
    lag_s: float = 30.0
    threads: int = 1

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """All layouts, the one of the start first."""
        return (self.layout, *self.others)

    @property
    def ranks(self) -> int:
        """Processes in the gang."""
        return self.layout.ranks + self.decode_ranks

    def __post_init__(self) -> None:
        if self.decode_ranks < 0:
            raise ValueError(f"decode_ranks is {self.decode_ranks}; it must be at least 0")
        for name in ("start_s", "silence_s", "stall_s", "lag_s", "threads"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be greater than 0")
        check_regroup(self.layouts)
        if self.decode_ranks and any(layout.replica > 1 for layout in self.layouts):
            raise UnsupportedError(
                "decode ranks take the latents of one lane; with replica, let the ranks that denoise decode"
            )


@dataclass(kw_only=True, slots=True)
class _Member:
    rank: int
    process: RankProcess
    wire: Wire | None = None
    stage: str = "is starting"
    description: EngineDescription | None = None
    seen_at: float = 0.0
    progress: int = 0


@dataclass(kw_only=True, slots=True)
class _Step:
    """What has come of the plan in flight."""

    plan: StepPlan
    reports: dict[int, StepReport] = field(default_factory=dict)
    moved_at: float = 0.0
    failure: RequestFailure | None = None
    failed_at: float = 0.0

    def waiting(self, members: int) -> list[int]:
        """Ranks that have not come back from the request that failed; other lanes may take their time."""
        assert self.failure is not None
        concerned = self.plan.ranks_of(self.failure.request_id)
        return [r for r in range(members) if r not in self.reports and (concerned is None or r in concerned)]


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
        self._members: list[_Member] = []
        self.hellos: list[Hello] = []
        self._secret = secrets.token_bytes(32)
        self._listener = Listener((launcher.host, 0), authkey=self._secret, backlog=spec.ranks)
        self._arrivals: queue.SimpleQueue[tuple[Hello, Wire]] = queue.SimpleQueue()
        self._folder = tempfile.TemporaryDirectory(prefix="reelray-gang-")
        self._closed = False
        threading.Thread(target=self._accept, name="reelray-gang-door", daemon=True).start()

    @property
    def description(self) -> EngineDescription:
        """What runs here: rank 0's words, with the device counted."""
        first = self._members[0].description
        assert first is not None
        return replace(first, device=f"{len(self._members)} x {first.device}", layout=self._spec.layout)

    @property
    def generation(self) -> int:
        """Grows with every start."""
        return self._generation

    def pids(self) -> list[int]:
        """Process ids of the ranks, for whoever watches or breaks them."""
        return [hello.pid for hello in self.hellos]

    def start(self) -> int:
        """Start the ranks; returns the generation.

        Raises:
            EngineError: They are not all ready in time; the message says what is missing.
            ReelrayError: The checkpoint cannot be opened, as the rank said it.
        """
        self._generation += 1
        deadline = self._clock() + self._spec.start_s
        try:
            self._launch()
            self._gather(deadline)
            self._wait_ready(deadline)
        except BaseException:
            self._end_ranks()
            raise
        self._check_equal()
        return self._generation

    def execute(self, plan: StepPlan) -> StepReport:
        """See `Channel`."""
        step = _Step(plan=plan, moved_at=self._clock())
        for member in self._members:
            member.seen_at = max(member.seen_at, self._clock() - self._spec.silence_s / 2)
            self._send(member, Run(plan=plan))
        while len(step.reports) < len(self._members):
            self._hear(step)
            self._judge(step)
        return merge_reports([step.reports[member.rank] for member in self._members])

    def rebuild(self) -> int:
        """See `Channel`."""
        self._end_ranks()
        return self.start()

    def close(self) -> None:
        """End the ranks."""
        self._closed = True
        self._end_ranks()
        self._listener.close()
        self._folder.cleanup()

    def _launch(self) -> None:
        address: Any = self._listener.address
        for rank in range(self._spec.ranks):
            invitation = Invitation(
                address=(address[0], address[1]),
                secret=self._secret,
                rank=rank,
                generation=self._generation,
                interface=self._launcher.interface,
            )
            process = self._launcher.launch(invitation)
            self._members.append(_Member(rank=rank, process=process, seen_at=self._clock()))

    def _accept(self) -> None:
        while not self._closed:
            try:
                wire = Wire(self._listener.accept())
                hello = wire.receive()
            except (OSError, EOFError, AuthenticationError):
                continue
            if isinstance(hello, Hello):
                self._arrivals.put((hello, wire))

    def _gather(self, deadline: float) -> None:
        """Wait until every rank has connected, and give it its assignment."""
        while any(member.wire is None for member in self._members):
            self._check_start(deadline)
            try:
                hello, wire = self._arrivals.get(timeout=TICK_S)
            except queue.Empty:
                continue
            if hello.generation != self._generation:
                wire.close()  # of a gang that was given up
                continue
            if hello.code != digest_code():
                raise EngineError(
                    f"rank {hello.rank} runs other code ({hello.code}) than the leader ({digest_code()}); "
                    "install the same version of reelray on all machines"
                )
            self.hellos.append(hello)
            member = self._members[hello.rank]
            member.wire, member.stage = wire, "loads the checkpoint"
            member.seen_at = self._clock()
        assignment = Assignment(
            ranks=len(self._members),
            meeting=(Path(self._folder.name) / f"meeting-{self._generation}").as_uri(),
            layouts=self._spec.layouts,
            decode_ranks=self._spec.decode_ranks,
            load=self._spec.load,
            threads=self._spec.threads,
            collective_s=max(60.0, self._spec.stall_s),
        )
        for member in self._members:
            self._send(member, assignment)

    def _wait_ready(self, deadline: float) -> None:
        while any(member.description is None for member in self._members):
            for member, message in self._messages():
                if isinstance(message, Ready):
                    member.description, member.stage = message.description, "is ready"
                elif isinstance(message, Refused):
                    raise message.error
            self._check_start(deadline)

    def _check_start(self, deadline: float) -> None:
        for member in self._members:
            # What it said before it left, such as why, is read first.
            if not member.process.is_alive() and not (member.wire and member.wire.connection.poll()):
                raise EngineError(f"rank {member.rank} died while it started: {member.process.last_words()}")
        if self._clock() > deadline:
            late = [f"rank {m.rank} {m.stage}" for m in self._members if m.description is None]
            raise EngineError(
                f"{len(late)} of {len(self._members)} ranks are not ready after {self._spec.start_s:g} s: "
                + ", ".join(late)
            )

    def _check_equal(self) -> None:
        digests = {m.description.digest for m in self._members if m.description is not None}
        if len(digests) > 1:
            self._end_ranks()
            raise EngineError(f"ranks hold different weights ({', '.join(sorted(digests))}); copy the same checkpoint")

    def _hear(self, step: _Step) -> None:
        for member, message in self._messages():
            if isinstance(message, Pulse) and message.progress != member.progress:
                member.progress, step.moved_at = message.progress, self._clock()
            elif isinstance(message, Ran):
                step.reports[member.rank], step.moved_at = message.report, self._clock()
                if message.report.failures and step.failure is None:
                    step.failure, step.failed_at = message.report.failures[0], self._clock()
            elif isinstance(message, Refused):
                self._blame(member, message)

    def _messages(self) -> list[tuple[_Member, Message]]:
        """What has come from the ranks, waiting a tick for the first.

        Raises:
            RankLostError: A connection has ended.
        """
        by_connection = {m.wire.connection: m for m in self._members if m.wire is not None}
        found: list[tuple[_Member, Message]] = []
        for connection in wait(list(by_connection), timeout=TICK_S):
            member = by_connection[connection]  # type: ignore[index]
            assert member.wire is not None
            try:
                found.append((member, member.wire.receive()))
            except (EOFError, OSError):
                raise self._lost(member, member.process.last_words()) from None
            member.seen_at = self._clock()
        return found

    def _judge(self, step: _Step) -> None:
        now = self._clock()
        for member in self._members:
            if now - member.seen_at > self._spec.silence_s:
                raise self._lost(member, f"silent for {now - member.seen_at:.1f} s")
        if (
            step.failure is not None
            and now - step.failed_at > self._spec.lag_s
            and (lagging := step.waiting(self._spec.ranks))
        ):
            request = str(step.failure.request_id)
            raise RankLostError(
                f"one rank failed with request {request}, and the others do not come back from it",
                ids={"request": request, "ranks": ",".join(map(str, lagging)), "generation": str(self._generation)},
            ) from step.failure.error
        if now - step.moved_at > self._spec.stall_s:
            late = [str(m.rank) for m in self._members if m.rank not in step.reports]
            ids = {"ranks": ",".join(late), "generation": str(self._generation)}
            raise RankLostError(f"no progress for {self._spec.stall_s:g} s in rank {', '.join(late)}", ids=ids)

    def _blame(self, member: _Member, message: Refused) -> None:
        """Raise for a rank that cannot go on; if a peer has just died, that is why."""
        until = self._clock() + LAST_WORDS_S
        while self._clock() < until:
            for other in self._members:
                if other is not member and not other.process.is_alive():
                    raise self._lost(other, other.process.last_words())
            time.sleep(TICK_S / 4)
        raise self._lost(member, message.error.message)

    def _send(self, member: _Member, message: Message) -> None:
        assert member.wire is not None
        try:
            member.wire.send(message)
        except OSError:
            raise self._lost(member, member.process.last_words()) from None

    def _lost(self, member: _Member, why: str) -> RankLostError:
        ids = {"rank": str(member.rank), "generation": str(self._generation)}
        return RankLostError(f"rank {member.rank} of {len(self._members)} was lost: {why}", ids=ids)

    def _end_ranks(self) -> None:
        for member in self._members:
            if member.wire is not None:
                member.wire.close()
        _kill([member.process for member in self._members])
        self._members, self.hellos = [], []


def _kill(processes: Sequence[RankProcess]) -> None:
    for process in processes:
        process.kill()
