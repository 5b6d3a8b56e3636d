"""Claims jobs, has engines make them, and says how each attempt ended."""

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
from reelray.cluster.renders.attempt import Attempt, Surroundings
from reelray.cluster.renders.lease_keeper import AWAY, hold
from reelray.cluster.renders.retention import clear_job
from reelray.cluster.renders.spec import queue_of
from reelray.cluster.store.leases import Lease
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
        slots: Jobs at once.
        lease_s: How long a job stays with a worker that was lost.
        idle_s: How often it looks for jobs where there are none.
        retry_after_s: How long a job rests after a failure that may pass; four times as long after each further one.
    """

    owner: str = field(default_factory=_name)
    slots: int = 1
    lease_s: float = 15.0
    idle_s: float = 0.5
    retry_after_s: float = 5.0

    def __post_init__(self) -> None:
        for name in ("slots", "lease_s", "idle_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be greater than 0")

    def rest_s(self, attempts: int) -> float:
        """How long a job rests after so many attempts in a row that failed: a disk may be full for minutes."""
        return self.retry_after_s * 4.0 ** (attempts - 1)


class RenderWorker:
    """Works until its task is cancelled; jobs in work are then given back.

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
        """Where it looks for jobs: those of models that take requests now."""
        return tuple(queue for queue, model in self._models.items() if model.is_ready)

    async def run(self) -> None:
        """Work; see the class."""
        async with asyncio.TaskGroup() as slots:
            for slot in range(self._habits.slots):
                slots.create_task(self._work(f"{self._habits.owner}:{slot}"), name=f"render slot {slot}")

    async def _work(self, owner: str) -> None:
        task = asyncio.current_task()
        assert task is not None, "it runs in a task"
        while not task.cancelling():  # a call to the store may have lost the cancellation
            lease = await self._claim(owner)
            if lease is None:
                await asyncio.sleep(self._habits.idle_s)
            else:
                await self.work_on(lease)

    async def _claim(self, owner: str) -> Lease | None:
        if not (queues := self.queues):
            return None
        try:
            return await self._around.store.leases.claim(owner, lease_s=self._habits.lease_s, queues=queues)
        except AWAY as error:
            LOG.warning("no jobs can be claimed now: %s", error)
            return None

    async def work_on(self, lease: Lease) -> None:
        """Make one job, and say in the store how that ended."""
        model, leases = self._models[lease.job.queue], self._around.store.leases
        try:
            result = await hold(self._around.store, lease, Attempt(lease, model, self._around).run())
            say: Callable[[], Awaitable[object]] = partial(leases.finish, lease, result)
        except FencedError as error:
            LOG.info("job %s is left: %s", lease.ref.id, error)
            return
        except asyncio.CancelledError:
            await asyncio.shield(self._say(lease, partial(leases.release, lease)))
            raise
        except CancelledError as error:  # of the engine, which closes
            LOG.info("job %s is given back: %s", lease.ref.id, error)
            say = partial(leases.release, lease)
        except ReelrayError as error:
            LOG.warning("job %s: %s", lease.ref.id, error)
            say = partial(self._fail, lease, error.message, retry=error.retryable)
            self._look_after(model, error)
        except Exception:
            LOG.exception("job %s failed unexpectedly", lease.ref.id)
            say = partial(self._fail, lease, UNEXPECTED, retry=True)
        await self._say(lease, say)

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
