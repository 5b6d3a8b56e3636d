"""Has engines make jobs, and says how each attempt ended. Which job comes next, others decide."""

import asyncio
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from reelray.cluster.gateway.served_models import ServedModel
from reelray.cluster.renders.attempt import Attempt, MadeRoom, Surroundings
from reelray.cluster.renders.lease_keeper import AWAY, hold
from reelray.cluster.renders.retention import clear_job
from reelray.cluster.renders.spec import queue_of
from reelray.cluster.store.leases import Lease
from reelray.cluster.store.names import JobRef
from reelray.proto.errors import (
    ArtifactError,
    CancelledError,
    EngineError,
    FencedError,
    ReelrayError,
    ResourceError,
)

LOG = logging.getLogger("reelray.renders")
UNEXPECTED = "an unexpected error; the worker's log says more"
_PAUSE_S = 0.2


def _name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerHabits:
    """How a worker works.

    Args:
        owner: What others see as who holds a job.
        lease_s: How long a job stays with a worker that was lost.
        retry_after_s: How long a job rests after a failure that may pass; four times as long after each further one.
    """

    owner: str = field(default_factory=_name)
    lease_s: float = 15.0
    retry_after_s: float = 5.0

    def __post_init__(self) -> None:
        if self.lease_s <= 0:
            raise ValueError(f"lease_s is {self.lease_s}; it must be greater than 0")

    def rest_s(self, attempts: int) -> float:
        """How long a job rests after so many attempts in a row that failed: a disk may be full for minutes."""
        return self.retry_after_s * 4.0 ** (attempts - 1)


class RenderWorker:
    """Works on one job at a time for each call of `work_on`.

    Args:
        models: What it can make.
        around: Store, files and habits of each attempt.
        habits: Its own.
    """

    def __init__(self, models: Sequence[ServedModel], around: Surroundings, habits: WorkerHabits | None = None) -> None:
        self._models = {queue_of(model.entry.name): model for model in models}
        self._around, self._habits = around, habits or WorkerHabits()

    @property
    def queues(self) -> tuple[str, ...]:
        """Where its jobs lie: those of models that take requests now."""
        return tuple(queue for queue, model in self._models.items() if model.is_ready)

    async def claim(self, ref: JobRef | None = None) -> Lease | None:
        """Have a job, or any where none is named; None where it is not to be had, or the store is away."""
        if not (queues := self.queues):
            return None
        habits = self._habits
        try:
            return await self._around.store.leases.claim(habits.owner, lease_s=habits.lease_s, queues=queues, job=ref)
        except AWAY as error:
            LOG.warning("no jobs can be claimed now: %s", error)
            return None

    def attempt(self, lease: Lease) -> Attempt:
        """What `work_on` is to run."""
        return Attempt(lease, self._models[lease.job.queue], self._around)

    async def work_on(self, lease: Lease, attempt: Attempt | None = None) -> bool:
        """Make one job, and say in the store how that ended; a job in work is given back when this is cancelled.

        Returns:
            Whether it was made.
        """
        model, leases = self._models[lease.job.queue], self._around.store.leases
        is_made = False
        try:
            result = await hold(self._around.store, lease, (attempt or self.attempt(lease)).run())
            say: Callable[[], Awaitable[object]] = partial(leases.finish, lease, result)
            is_made = True
        except FencedError as error:
            LOG.info("job %s is left: %s", lease.ref.id, error)
            return False
        except asyncio.CancelledError:
            await asyncio.shield(self._say(lease, partial(leases.release, lease)))
            raise
        except (MadeRoom, CancelledError) as reason:  # the latter of the engine, which closes
            LOG.info("job %s is given back: %s", lease.ref.id, str(reason) or "others go first")
            say = partial(leases.release, lease)
        except ReelrayError as error:
            LOG.warning("job %s: %s", lease.ref.id, error)
            say = partial(self._fail, lease, error.message, retry=error.retryable)
            self._look_after(model, error)
        except Exception:
            LOG.exception("job %s failed unexpectedly", lease.ref.id)
            say = partial(self._fail, lease, UNEXPECTED, retry=True)
        await self._say(lease, say)
        return is_made

    async def _fail(self, lease: Lease, why: str, *, retry: bool) -> None:
        rest_s = self._habits.rest_s(lease.job.attempts) if retry else 0.0
        await self._around.store.leases.fail(lease, why, retry=retry, retry_after_s=rest_s)

    async def _say(self, lease: Lease, say: Callable[[], Awaitable[object]]) -> None:
        """Tell the store, and try again as long as nobody else can have the job; then clean up."""
        until_s = time.monotonic() + self._habits.lease_s
        try:
            while True:
                try:
                    await say()
                    break
                except AWAY as error:
                    if time.monotonic() > until_s:
                        raise
                    LOG.info("the store is told again how job %s ended: %s", lease.ref.id, error)
                    await asyncio.sleep(_PAUSE_S)
            await clear_job(self._around.store, self._around.artifacts, lease.ref)
        except FencedError as error:
            LOG.info("job %s is left: %s", lease.ref.id, error)
        except (*AWAY, ArtifactError) as error:  # the lease runs out, and what is left over is collected some day
            LOG.warning("after job %s: %s", lease.ref.id, error)

    def _look_after(self, model: ServedModel, error: ReelrayError) -> None:
        if isinstance(error, EngineError | ResourceError):
            name = f"look after {model.entry.name}"
            threading.Thread(target=model.look_after, name=name, daemon=True).start()
