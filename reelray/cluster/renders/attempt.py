"""One lease's work on one job: from its last commit to the whole video, with commits on the way.

Order of a commit: the engine's snapshot, then the frames up to it, then their files, then the ledger. A crash anywhere
before the ledger's record leaves the unit before as the last one.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

from reelray.cluster.gateway.event_pump import EventPump
from reelray.cluster.gateway.served_models import ServedModel
from reelray.cluster.plain_json import to_plain
from reelray.cluster.render import RenderJob
from reelray.cluster.render_session import check_order, frames_array
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.renders.beginning import Beginning, begin
from reelray.cluster.renders.commit_pace import CommitPace, CommitRule
from reelray.cluster.renders.engine_run import EngineRun
from reelray.cluster.renders.groups import chunk_ends
from reelray.cluster.renders.lease_keeper import AWAY
from reelray.cluster.renders.unit_files import drop_superseded, write_unit, write_video
from reelray.cluster.renders.unit_record import UnitRecord
from reelray.cluster.store.leases import Lease
from reelray.cluster.store.open import Store
from reelray.proto.errors import EngineError
from reelray.proto.events import Done, Event, Frames, Progress, Stage
from reelray.proto.request import RenderSummary
from reelray.proto.snapshot import Snapshot

_PAUSE_S = 0.2
PROGRESS = "progress"
"""Kind of the events that tell how far the engine is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What attempts need.

    Args:
        store: Keeps jobs and their ledgers.
        artifacts: Keeps their files.
        rule: When to commit.
        tell_s: Least seconds between two words to those who watch.
        clock: Monotonic seconds.
    """

    store: Store
    artifacts: Artifacts
    rule: CommitRule = field(default_factory=CommitRule)
    tell_s: float = 1.0
    clock: Callable[[], float] = time.monotonic


class MadeRoom(Exception):  # noqa: N818  nothing went wrong
    """An attempt has ended because it was asked to; what it made is committed."""


class Attempt:
    """Call `run` once, while the lease is held.

    Args:
        lease: The right to work.
        model: What makes it.
        around: Store, files and habits.
    """

    def __init__(self, lease: Lease, model: ServedModel, around: Surroundings) -> None:
        self._lease, self._model, self._around = lease, model, around
        self._told_s = around.clock()
        self._summary: RenderSummary | None = None
        self._steps = self._all_steps = self._committed = self._first = 0
        self._is_to_end = False
        self._run: EngineRun | None = None
        self._pending: tuple[Snapshot, float] | None = None
        self._putting_down: tuple[asyncio.Future[Snapshot | None], float] | None = None

    @property
    def share(self) -> float:
        """How much of the denoising is done."""
        return min(1.0, self._steps / self._all_steps) if self._all_steps else 0.0

    @property
    def own_share(self) -> float:
        """How much of it this attempt has done."""
        return (self._steps - self._first) / self._all_steps if self._all_steps else 0.0

    @property
    def left(self) -> float:
        """Share of the denoising behind the last commit."""
        return 1.0 - min(1.0, self._committed / self._all_steps) if self._all_steps else 1.0

    def make_room(self) -> None:
        """End at the next step that can be committed; one whose engine puts nothing down goes on to its end."""
        self._is_to_end = True
        if self._can_put_down():  # before the step in flight ends: it is the last one then
            self._begin_to_put_down()

    async def run(self) -> dict[str, Any]:
        """Make the video.

        Returns:
            The job's result, for `Leases.finish`.

        Raises:
            MadeRoom: It was asked to.
            LeaseLostError: A commit was refused.
            ReelrayError: The job's spec, the engine, or the place of its files.
        """
        began = await begin(self._around.store, self._around.artifacts, self._lease, self._model)
        self._begin(began)
        self._run = run = EngineRun(self._model.engine, self._request, began.snapshot)
        pump = EventPump(run, leave=run.leave, name=f"render {self._request.request_id}")
        async with aclosing(pump.items()) as events:
            async for event in events:
                await self._take(event)
        return await self._finish()

    def _begin(self, began: Beginning) -> None:
        self._job, self._video, self._records = began.job, began.video, list(began.records)
        self._request = began.job.request
        self._steps = self._committed = 0 if began.snapshot is None else began.snapshot.windows
        self._first = self._steps
        self._made = 0 if began.snapshot is None else began.snapshot.frame
        ends, place = chunk_ends(self._request, self._job.model.facts), self._video.place
        self._all_steps = len(ends) * self._request.recipe.schedule.length  # until the engine says it
        rule, clock = self._around.rule, self._around.clock
        self._pace = CommitPace(rule, ends, clock, frames=place.frames, steps=self._steps)

    async def _take(self, event: Event) -> None:
        if self._putting_down is not None:
            await self._put_down_now()
            await self._commit_pending()
        if isinstance(event, Done):
            if self._made != self._request.frames:
                raise EngineError(f"the engine made {self._made} of {self._request.frames} frames")
            self._summary = event.summary
            return
        if isinstance(event, Frames):
            await self._write(event)
        elif event.stage is Stage.DENOISE:
            self._steps, self._all_steps = event.done, event.total
        await self._tell(event)
        await self._look_after_commits()

    async def _write(self, event: Frames) -> None:
        check_order(event, self._made, self._request)
        known = max(0, self._video.place.frames - self._made)  # made once more, and the same
        self._made += event.count
        if known < event.count:
            await asyncio.to_thread(self._video.write, frames_array(event)[known:])

    async def _look_after_commits(self) -> None:
        if self._is_to_end and self._pending is None and self._steps == self._committed:  # nothing would be lost
            raise MadeRoom
        is_due = self._is_to_end or self._pace.is_due(frames=self._made, steps=self._steps)
        if is_due and self._can_put_down():
            self._begin_to_put_down()
            await self._put_down_now()
        await self._commit_pending()

    def _can_put_down(self) -> bool:
        is_free = self._run is not None and self._pending is None and self._putting_down is None
        return is_free and self._video.place.frames <= self._made < self._request.frames

    def _begin_to_put_down(self) -> None:
        assert self._run is not None, "it has begun"
        began_s = self._around.clock()
        self._putting_down = asyncio.ensure_future(asyncio.to_thread(self._run.put_down)), began_s
        self._putting_down[0].add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # also if it has left

    async def _put_down_now(self) -> None:
        """Wait for a snapshot that was asked for: what the engine tells next may lie behind it."""
        if self._putting_down is not None:
            (asked, began_s), self._putting_down = self._putting_down, None
            snapshot = await asked
            self._pending = None if snapshot is None else (snapshot, began_s)

    async def _commit_pending(self) -> None:
        frames = self._video.place.frames
        if self._pending is None or self._pending[0].frame != frames:
            return
        (snapshot, began_s), self._pending = self._pending, None
        await self._commit(snapshot)
        self._pace.committed(frames=frames, steps=snapshot.windows, began_s=began_s)
        self._committed = snapshot.windows
        if self._is_to_end:
            raise MadeRoom

    async def _commit(self, snapshot: Snapshot) -> None:
        artifacts, lease, unit = self._around.artifacts, self._lease, len(self._records)
        record = await asyncio.to_thread(write_unit, artifacts, lease, unit, snapshot, self._video)
        while True:
            try:
                await self._around.store.ledger.commit(lease, unit, record.to_json())
                break
            except AWAY:  # who keeps the lease says when it has been away for too long
                await asyncio.sleep(_PAUSE_S)
        self._records.append(record)
        if unit:
            await asyncio.to_thread(drop_superseded, artifacts, self._records[-2])

    async def _finish(self) -> dict[str, Any]:
        assert self._summary is not None, "an engine ends with Done or an error"
        video = await asyncio.to_thread(
            write_video, self._around.artifacts, self._lease, self._records, self._video.take()
        )
        return {"video": to_plain(video), **_facts(self._job, self._summary, self._records, self._lease)}

    async def _tell(self, event: Progress | Frames) -> None:
        """Tell those who watch; nobody waits for it, so nothing is tried twice."""
        now_s = self._around.clock()
        if isinstance(event, Frames) or now_s - self._told_s < self._around.tell_s:
            return
        self._told_s = now_s
        word = {"stage": event.stage.value, "done": event.done, "total": event.total, "frames": self._made}
        with suppress(*AWAY):
            await self._around.store.events.post(self._lease, PROGRESS, word)


def _facts(job: RenderJob, summary: RenderSummary, records: list[UnitRecord], lease: Lease) -> dict[str, Any]:
    request = job.request
    return {
        "frames": request.frames,
        "width": request.width,
        "height": request.height,
        "fps": str(job.fps),
        "seed": request.seed,
        "model_digest": summary.model_digest,
        "device": summary.device,
        "dtype": summary.dtype,
        "layout": str(summary.layout),
        "ranks": summary.layout.ranks + summary.decode_ranks,
        "decode_ranks": summary.decode_ranks,
        "weights": str(summary.residency.blocks),
        "encoder": str(summary.residency.encoder),
        "peak_bytes": summary.peak_bytes,
        "forwards": summary.forwards,  # of the last attempt
        "stage_s": {stage: round(value, 3) for stage, value in summary.stage_s.items()},
        **({} if summary.sparsity is None else {"sparsity": to_plain(summary.sparsity.use)}),  # of the last attempt
        "commits": len(records),
        "claims": lease.job.claims,
    }
