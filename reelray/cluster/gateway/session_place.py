"""A session's place on an engine: waited for once, given back while nothing is made, and asked for anew behind that."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from reelray.cluster.coordinator.desk import Desk
from reelray.cluster.coordinator.messages import Clip, Waits, Wish
from reelray.cluster.coordinator.visit import Visit
from reelray.cluster.gateway.option_check import seconds_until
from reelray.cluster.gateway.placed_relay import UNREAD_S
from reelray.cluster.render import RenderJob
from reelray.proto.errors import CancelledError, ReelrayError
from reelray.proto.request import RequestId
from reelray.proto.v1 import request_options_pb2 as wire
from reelray.scheduler.fleet.ticket import Kind

LOOK_S = 1.0
"""So often a session is looked at."""
AGAIN_S = 10.0
"""When a session that goes on without a place asks again after it got none."""
LEAST_LEFT = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Urgency:
    """Who wants a video, and how soon.

    Args:
        tenant: Whose.
        priority: Of the tenant's own.
        within_s: Until its deadline; None without one.
    """

    tenant: str
    priority: int = 0
    within_s: float | None = None


def read_urgency(options: wire.RequestOptions, tenant: str) -> Urgency:
    """What a call says of that.

    Raises:
        InputError: Its deadline is no time.
    """
    within_s = seconds_until(options.deadline, time.time()) if options.HasField("deadline") else None
    return Urgency(tenant=tenant, priority=options.priority, within_s=within_s)


class SessionPlace:
    """Of one session, for the event loop's thread.

    Only the beginning waits. Who is paused, away or reads nothing for 5 s gives its place to others; its session goes
    on beside them whenever it does, and asks for the next place.

    Args:
        desk: Gives places.
        job: What the session makes.
        model: Its name.
        urgency: Whose it is, and how soon it must begin.
    """

    def __init__(self, desk: Desk, job: RenderJob, model: str, urgency: Urgency) -> None:
        self._desk, self._wish = desk, _wish(job, model, urgency)
        self._visit: Visit | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._count = self._still = self._first_step = 0

    async def enter(self, tell: Callable[[Waits], Awaitable[None]]) -> None:
        """Wait for a place; leaves the line when that is cancelled.

        Args:
            tell: Hears how it stands.

        Raises:
            ReelrayError: It gets none; the message says when it could.
        """
        self._visit = visit = self._desk.open(self._wish)
        try:
            await visit.first(self._desk.patience_s)
            async for waits in visit.standings():
                await _tell(tell, waits)
        except BaseException:
            self.leave()
            raise

    def refuse(self, error: ReelrayError) -> None:
        """Have whoever waits in `enter` be told that."""
        if self._visit is not None:
            self._visit.refuse(error)

    def look(self, *, works: bool, done: int, total: int) -> None:
        """See to it that who works has a place, and nobody else.

        Args:
            works: Whether anything is being made, and taken.
            done: Denoise steps.
            total: Of so many.
        """
        if self._visit is not None:
            self._visit.moved(max(0, done - self._first_step), total - self._first_step)
        self._still = 0 if works else self._still + 1
        if works and self._visit is None:
            self._first_step = done
            self._ask_again(max(LEAST_LEFT, 1.0 - done / total) if total else 1.0)
        elif self._still * LOOK_S >= UNREAD_S:
            self.leave()

    def leave(self) -> None:
        """Give the place back, or leave its line; harmless when called twice."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
        visit, self._visit = self._visit, None
        if visit is not None:
            self._desk.leave(visit)

    def _ask_again(self, left: float) -> None:
        self._count += 1
        name = RequestId(
            f"{self._wish.request_id}.{self._count}"
        )  # what is still on its way to the last one is not its
        self._visit = visit = self._desk.open(replace(self._wish, request_id=name, within_s=None, left=left))
        self._waiting = asyncio.create_task(self._wait(visit), name=f"place of {name}")

    async def _wait(self, visit: Visit) -> None:
        try:
            await visit.first(self._desk.patience_s)
            async for _ in visit.standings():
                pass
        except ReelrayError:
            self._desk.leave(visit)
            await asyncio.sleep(AGAIN_S)
            self._visit = self._waiting = None


async def _tell(tell: Callable[[Waits], Awaitable[None]], waits: Waits) -> None:
    try:
        async with asyncio.timeout(UNREAD_S):
            await tell(waits)
    except TimeoutError:
        raise CancelledError(f"nothing was read for {UNREAD_S:g} s; the call was ended while it waited") from None


def _wish(job: RenderJob, model: str, urgency: Urgency) -> Wish:
    wanted = job.request
    return Wish(
        request_id=wanted.request_id,
        model=model,
        clip=Clip(width=wanted.width, height=wanted.height, frames=wanted.frames, recipe=wanted.recipe),
        tenant=urgency.tenant,
        kind=Kind.STREAM,
        priority=urgency.priority,
        within_s=urgency.within_s,
        lasts_s=0.0 if wanted.pace_fps is None else wanted.frames / wanted.pace_fps,
    )
