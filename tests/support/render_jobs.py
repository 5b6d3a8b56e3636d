"""Durable renders under test: models, engines that are disturbed, and what must come out."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from reelray.cluster.checkpoint_loader import CheckpointLoader
from reelray.cluster.gateway.served_models import ServedModel
from reelray.cluster.local_engine import LocalEngine
from reelray.cluster.render import RenderJob, RenderOptions, plan_job
from reelray.cluster.render_session import frames_array
from reelray.cluster.renders.attempt import Surroundings
from reelray.cluster.renders.commit_pace import CommitRule
from reelray.cluster.renders.growing_media import read_media
from reelray.cluster.renders.growing_video import GrowingVideo
from reelray.cluster.renders.submission import Submission, submit_render
from reelray.cluster.renders.unit_record import UnitRecord
from reelray.cluster.renders.worker import RenderWorker, WorkerHabits
from reelray.proto.errors import EndedError, UnsupportedError
from reelray.proto.events import Event, Frames, Progress, Stage
from reelray.proto.recipe import Defaults
from reelray.proto.session import Stop
from tests.support.fake_engine import fake_entry
from tests.support.fake_model import FakeModel
from tests.support.requests import make_facts, make_recipe

EVERY_STEP = CommitRule(every_s=3600, steps=1, share=None)
BY_UNIT = CommitRule(every_s=3600, chunks=1, steps=2, share=None)
QUICK = WorkerHabits(owner="w", lease_s=1.0, retry_after_s=0.0)


class SteppedModel(FakeModel):
    """Takes a step when `permits` has one, so that no engine runs ahead of whoever gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.permits, self.free = threading.Semaphore(2), False
        self.lent = 0

    def begin(self) -> None:
        self.permits, self.lent = threading.Semaphore(2), 0  # one may go to the last step of a request that is gone

    def lend(self) -> None:
        """For the step in flight and the one with which a snapshot is taken."""
        self.lent += 2
        self.permits.release(2)

    def give(self) -> None:
        if self.lent:
            self.lent -= 1
        else:
            self.permits.release()

    def denoise(self, *args, **kwargs):
        while not (self.free or self.permits.acquire(timeout=0.005)):
            pass
        return super().denoise(*args, **kwargs)


@contextmanager
def free(model):
    """Let a `SteppedModel` take any number of steps."""
    if isinstance(model, SteppedModel):
        model.free = True
    yield
    if isinstance(model, SteppedModel):
        model.free = False


class WatchedEngine:
    """Passes everything on, and tells `watch` of each event before anybody else hears of it.

    A `SteppedModel` may take a step for each that was heard of, and two for a snapshot.

    Attributes:
        steps: Denoise steps of each request, in order.
    """

    def __init__(self, engine: LocalEngine, watch: Callable[[Event], None], model=None) -> None:
        self.engine, self.watch, self.model = engine, watch, model if isinstance(model, SteppedModel) else None
        self.description = engine.description
        self.steps: list[list[int]] = []
        self.snapshots = 0

    def render(self, request, snapshot=None) -> "WatchedEvents":
        if self.model is not None:
            self.model.begin()
        self.steps.append([])
        return WatchedEvents(self, self.engine.render(request, snapshot), self.steps[-1])

    def snapshot(self, request_id, kind):
        self.snapshots += 1
        if self.model is not None:
            self.model.lend()
        return self.engine.snapshot(request_id, kind)

    def tell(self, request_id, order):
        return self.engine.tell(request_id, order)

    def close(self) -> None:
        self.engine.close()


class WatchedEvents(Iterator[Event]):
    def __init__(self, owner: WatchedEngine, events, steps: list[int]) -> None:
        self._owner, self._events, self._steps = owner, events, steps

    def __next__(self) -> Event:
        event = next(self._events)
        if isinstance(event, Progress) and event.stage is Stage.DENOISE:
            self._steps.append(event.done)
            if self._owner.model is not None:
                self._owner.model.give()
        self._owner.watch(event)
        return event

    def close(self) -> None:
        self._events.close()


def fake_model_entry(*, steps=3, chunk=None):
    """A model in closed form as a catalog's entry; `FakeModel` makes its videos."""
    recipe = make_recipe(steps=steps, chunk=chunk, guidance=1.0)
    recipe = replace(recipe, defaults=Defaults(width=32, height=16, frames=17, fps=8))
    return fake_entry(recipe=recipe, facts=make_facts(), path=Path("/models/fake"))


def plan(entry, *, seed=7, frames=17, prompt="a disc", **wish) -> RenderJob:
    return plan_job(RenderOptions(prompt=prompt, seed=seed, frames=frames, **wish), entry)


@contextmanager
def served(entry, model=None, watch=lambda _event: None, **limits):
    """A model that is ready, on an engine that is watched: a `ServedModel` and its `WatchedEngine`s, oldest first."""
    engines: list[WatchedEngine] = []

    def open_engine() -> WatchedEngine:
        if model is not None:
            engine = LocalEngine.of_model(model, **limits)
        else:
            engine = LocalEngine.open(CheckpointLoader(path=entry.path, device="cpu"), **limits)
        engines.append(WatchedEngine(engine, watch, model))
        return engines[-1]

    model_here = ServedModel(entry, open_engine)
    try:
        yield model_here, engines
    finally:
        with free(model):
            model_here.close()


def undisturbed(job: RenderJob, model: ServedModel) -> bytes:
    """The video of a job that nobody disturbs, without store, worker or commits."""
    video, data = GrowingVideo(job, model.description.digest), b""
    with free(model.engine.model):
        for event in model.engine.engine.render(job.request):
            if isinstance(event, Frames):
                video.write(frames_array(event))
                data += video.take()
    return data


async def submit(store, artifacts, job: RenderJob, model: ServedModel, **wish):
    digest = model.description.digest
    return (await submit_render(store, artifacts, job, digest, Submission(tenant="ann", **wish))).ref


def worker_of(store, artifacts, model: ServedModel, *, rule=EVERY_STEP, habits=QUICK) -> RenderWorker:
    return RenderWorker([model], Surroundings(store=store, artifacts=artifacts, rule=rule, tell_s=0.0), habits)


async def work_alone(worker: RenderWorker, *, slots: int = 1) -> None:
    """Make whatever waits, in the store's own order, until cancelled: no coordinator says what comes next."""

    async def work() -> None:
        while not asyncio.current_task().cancelling():  # a call to the store may have lost the cancellation
            lease = await worker.claim()
            if lease is None:
                await asyncio.sleep(0.02)
            else:
                await worker.work_on(lease)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(slots):
            tasks.create_task(work())


async def finish_job(store, worker: RenderWorker, ref):
    """Work until a job has ended; returns it."""
    while not (await store.jobs.get(ref)).state.ended:
        lease = await store.leases.claim("w", lease_s=QUICK.lease_s, queues=list(worker.queues))
        if lease is None:
            await asyncio.sleep(0.01)
        else:
            await worker.work_on(lease)
    return await store.jobs.get(ref)


async def records_of(store, ref) -> list[UnitRecord]:
    return [UnitRecord.from_json(commit.record) for commit in await store.ledger.commits(ref)]


async def video_of(store, artifacts, ref) -> bytes:
    return (await read_media(store, artifacts, ref, most_bytes=1 << 30)).data


def is_idle(engine, ref, fence):
    """Whether an engine has given up what a lease had it make."""
    try:
        engine.tell(f"{ref.id}-{fence}", Stop())
    except EndedError:
        return True
    except UnsupportedError:  # a whole clip is not stopped like a stream
        return False
    return False


async def reached(gate: "Gate") -> None:
    await asyncio.to_thread(gate.reached.wait, 60)


async def until(what: Callable[[], bool]) -> None:
    """Look until something holds; the test's own time limit ends what never does."""
    while not what():  # noqa: ASYNC110  nothing tells
        await asyncio.sleep(0.005)


class Gate:
    """Holds the engine's client after so many denoise steps."""

    def __init__(self, steps: int) -> None:
        self._left, self.reached, self.open = steps, threading.Event(), threading.Event()

    def __call__(self, event: Event) -> None:
        self._left -= isinstance(event, Progress) and event.stage is Stage.DENOISE
        if self._left == 0:
            self._left = -1
            self.reached.set()
            assert self.open.wait(60)
