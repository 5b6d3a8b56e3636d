"""The leader: asks the core for the next step, has the ranks carry it out, tells the clients what came of it."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import CancelledError, EngineError, RankLostError, ReelrayError, SnapshotError
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.session import Fork, Forked, Order, Standing
from reelray.proto.snapshot import Snapshot, SnapshotKind
from reelray.proto.step_plan import StepOutcome, StepPlan, StepReport
from reelray.workers.engine.clients import Clients
from reelray.workers.engine.event_stream import EventStream
from reelray.workers.engine.seams import Channel, StepFormer

_LOG = logging.getLogger(__name__)
LOOK_S = 0.1
"""How often the ranks are looked after while there is no work."""


class Leader:
    """Runs the step loop in a thread of its own. Every method may be called from any thread.

    The ranks are idle, not waiting in a collective, while there is no work: the loop sleeps on a condition that
    `submit`, `cancel` and acknowledgements signal, and looks after them now and then: a rank that is lost meanwhile is
    replaced before the next request needs it.

    Args:
        core: Decides the steps.
        channel: Carries them out.
        description: The engine, for summaries; its facts go to the core.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        core: StepFormer,
        channel: Channel,
        description: EngineDescription,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.description = description
        self._core = core
        self._channel = channel
        self._clock = clock
        self._wake = threading.Condition()
        self._clients = Clients(core, description, acknowledge=self._acknowledge, cancel=self.cancel)
        self._ended: ReelrayError | None = None
        self._in_flight = 0
        self._thread = threading.Thread(target=self._run, name="reelray-leader", daemon=True)

    def start(self) -> Self:
        """Start the loop."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop after the step in flight; requests that still go on are cancelled."""
        self._end(CancelledError("the engine was closed"))
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, request: RenderRequest, snapshot: Snapshot | None = None) -> EventStream:
        """Take in a request, or what goes on from a snapshot of it.

        Raises:
            InputError: The request does not fit the model, or its id is in use.
            SnapshotError: The snapshot is one of another model.
            EngineError: The engine is lost.
        """
        digest = self.description.digest
        if snapshot is not None and snapshot.digest != digest:
            raise SnapshotError(f"the snapshot is one of another model: of {snapshot.digest}, and this one is {digest}")
        with self._wake:
            if self._ended is not None:
                raise EngineError(f"the engine takes no requests: {self._ended.message}")
            self._core.submit(request, self.description.facts, snapshot)
            stream = self._clients.open(request)
            self._wake.notify()
        return stream

    def cancel(self, request_id: RequestId) -> bool:
        """Stop a request at the next step; its stream ends at once. Returns whether it was still going on."""
        with self._wake:
            if self._ended is not None or not self._core.cancel(request_id):
                return False
            error = CancelledError("the request was cancelled", ids={"request": str(request_id)})
            self._clients.close(request_id, error)
            self._wake.notify()
            return True

    def tell(self, request_id: RequestId, order: Order) -> Standing:
        """Change a request while it runs.

        Raises:
            InputError: It is not here or has ended, or the order comes too late.
            EngineError: The engine is lost.
        """
        with self._wake:
            if self._ended is not None:
                raise EngineError(f"the engine takes no orders: {self._ended.message}")
            standing = self._core.tell(request_id, order)
            self._clients.accounts[request_id].frames = standing.frames
            if standing.finished:
                self._clients.finish(request_id)
            self._wake.notify()
            return standing

    def snapshot(self, request_id: RequestId, kind: SnapshotKind) -> Snapshot:
        """Put a request down and wait for what comes of it; the request goes on.

        Raises:
            InputError: It is not here or has ended, or ends before.
            EngineError: The engine is lost.
        """
        snapshot: Snapshot = self._ask(request_id, partial(self._core.snapshot, request_id, kind))
        return replace(snapshot, digest=self.description.digest)

    def fork(self, request_id: RequestId, fork: Fork) -> tuple[Forked, EventStream]:
        """Begin another stream that goes its own way from where this one is, and wait until it is there.

        Raises:
            InputError: It is not here or has ended, or ends before, or the prompt comes too late.
            ResourceError: There is no room for two; it goes on.
            EngineError: The engine is lost.
        """
        if fork.back_to is not None:
            return self._go_back(request_id, fork)
        ask = partial(self._core.fork, request_id, fork.request_id)
        forked, stream = self._ask(request_id, ask, prompt=fork.prompt)
        return forked, stream

    def _go_back(self, request_id: RequestId, fork: Fork) -> tuple[Forked, EventStream]:
        with self._wake:
            if self._ended is not None:
                raise EngineError(f"the engine takes no orders: {self._ended.message}")
            forked = self._core.go_back(request_id, fork)
            self._wake.notify()
            return forked, self._clients.open(forked.request)

    def _ask(self, request_id: RequestId, ask: Callable[[], None], *, prompt: str | None = None) -> Any:
        """Have the core ask the ranks for a copy of a request, and wait for the answer."""
        with self._wake:
            if self._ended is not None:
                raise EngineError(f"the engine takes no orders: {self._ended.message}")
            ask()
            answer = self._clients.ask(request_id, prompt)
            self._wake.notify()
        return answer.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _acknowledge(self, request_id: RequestId, frames: int) -> None:
        with self._wake:
            self._core.acknowledge(request_id, frames)
            self._wake.notify()

    def _run(self) -> None:
        try:
            while not self._ended:
                try:
                    self._take_turn()
                except RankLostError as error:
                    self._recover(error)
            while self._in_flight:
                self._in_flight -= self._channel.collect() is not None
        except ReelrayError as error:
            self._end(error)
        except Exception as error:  # noqa: BLE001  the last stop before the thread ends silently
            self._end(EngineError(f"the engine stopped: {type(error).__name__}: {error}"))

    def _take_turn(self) -> None:
        """Have the next steps carried out and take in what came of one, or look after the ranks if there is none."""
        self._issue(self._next_plans())
        if not self._in_flight:
            if self._ended is None:
                self._channel.check()
            return
        report = self._channel.collect()
        if report is not None:
            self._in_flight -= 1
            self._deliver(report)

    def _recover(self, lost: RankLostError) -> None:
        """Have the ranks put together again and go back to every request's last commit."""
        _LOG.warning("%s; the gang is put together again", lost.message)
        self._in_flight = 0
        generation = self._channel.rebuild()
        with self._wake:
            self._blame(lost)
            given_up = self._core.rewind(generation, _lost_ranks(lost))
            for request_id in given_up:
                if request_id in self._clients.streams:
                    self._clients.close(request_id, _give_up(request_id, lost))

    def _blame(self, lost: RankLostError) -> None:
        """End the request whose failure took the gang along, with its own error."""
        request_id = RequestId(lost.ids.get("request", ""))
        if isinstance(lost.__cause__, ReelrayError) and request_id in self._clients.streams:
            self._core.cancel(request_id)
            self._clients.close(request_id, lost.__cause__)

    def _next_plans(self) -> list[StepPlan]:
        """The next steps, of one crew or of both; none after a while without work, or at the end."""
        with self._wake:
            plans = self._ask_core()
            if not plans and not self._in_flight and not self._ended:
                self._wake.wait(LOOK_S)
                plans = self._ask_core()
            return plans

    def _ask_core(self) -> list[StepPlan]:
        plans: list[StepPlan] = []
        while not self._ended and (plan := self._core.next_step(self._clock())) is not None:
            plans.append(plan)
        return plans

    def _issue(self, plans: Sequence[StepPlan]) -> None:
        for plan in plans:
            self._in_flight += 1
            self._channel.issue(plan)

    def _deliver(self, report: StepReport) -> None:
        with self._wake:
            if self._ended is not None:
                return
            outcome, plans = self._core.report(report), self._ask_core()
        try:
            self._issue(plans)  # first of all: the ranks need not wait until clients have what they made
        finally:
            with self._wake:
                if self._ended is None:
                    self._tell(outcome, report)

    def _tell(self, outcome: StepOutcome, report: StepReport) -> None:
        """Hand on what came of a step; requests may have been cancelled since it was reported."""
        clients = self._clients
        clients.take(report)
        for progress in outcome.progress:
            if progress.request_id in clients.streams:
                clients.streams[progress.request_id].put(progress)
        for snapshot in outcome.snapshots:
            clients.put_snapshot(snapshot)
        for forked in outcome.forks:
            clients.put_fork(forked)
        for request_id in outcome.finished:
            clients.finish(request_id)
        for failure in report.failures:
            if failure.request_id in outcome.failed:
                clients.close(failure.request_id, failure.error)

    def _end(self, error: ReelrayError) -> None:
        with self._wake:
            self._ended = self._ended or error
            for request_id in list(self._clients.streams):
                self._clients.close(request_id, error)
            self._wake.notify()


def _lost_ranks(lost: RankLostError) -> list[int]:
    """Ranks that an error names."""
    return [int(rank) for name in ("rank", "ranks") for rank in lost.ids.get(name, "").split(",") if rank]


def _give_up(request_id: RequestId, lost: RankLostError) -> EngineError:
    return EngineError(
        f"the ranks were lost again while they worked on this request ({lost.message}); it may be what ends them",
        ids={**lost.ids, "request": str(request_id)},
    )
