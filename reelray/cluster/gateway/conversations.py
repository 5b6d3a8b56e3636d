"""The sessions of one server: who has them, how long they wait, and how they end."""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from reelray.cluster.assets.sources import Sources
from reelray.cluster.coordinator.desk import Desk
from reelray.cluster.coordinator.messages import Waits
from reelray.cluster.gateway.conversation import Conversation, Terms
from reelray.cluster.gateway.live_quotas import LiveQuotas
from reelray.cluster.gateway.served_models import ServedModel, ServedModels
from reelray.cluster.gateway.session_charges import SessionCharges
from reelray.cluster.gateway.session_place import LOOK_S, SessionPlace, Urgency
from reelray.cluster.gateway.session_start import check_start, open_stream, plan_stream
from reelray.cluster.render import RenderJob
from reelray.proto.errors import (
    CancelledError,
    EngineError,
    ReelrayError,
    ResourceError,
    UnknownSessionError,
)
from reelray.proto.v1 import converse_pb2 as wire
from reelray.proto.v1 import video_spec_pb2

THREADS = 64
"""For orders that wait for an engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConverseLimits:
    """What one server gives to sessions.

    Args:
        most: Sessions at a time.
        most_of_tenant: Those of one tenant.
        longest_keep_s: Longest that one waits for its client.
        fork_s: How long a fork is waited for at least.
        idle_s: How long a session that is paused, or whose client receives nothing, goes on without a word.
        first_s: How long the first message of a call is waited for.
        end_s: How long a client has to say that it has received the end.
        window_bytes: Most that is on the way to a client.
        open_commands: Commands that wait to be carried out, or answers to be received.
    """

    most: int = 256
    most_of_tenant: int = 64
    longest_keep_s: float = 300.0
    fork_s: float = 30.0
    idle_s: float = 600.0
    first_s: float = 30.0
    end_s: float = 5.0
    window_bytes: int = 4_000_000
    open_commands: int = 64


class Line(Protocol):
    """A call that a session is on."""

    def take_away(self) -> None:
        """Another call has the session now."""
        ...


@dataclass(kw_only=True, slots=True, eq=False)
class Seat:
    """A session and who is on the line.

    Args:
        conversation: The session.
        place: On an engine.
        waits_s: How long it waits for a call.
        heard_s: When its client was heard last, on the loop's clock.
        line: The call that it is on; None while it waits.
        parked: Whether its engine begins nothing, as nobody is there.
        open: What is to be done and is not, commands above all.
    """

    conversation: Conversation
    place: SessionPlace
    waits_s: float
    heard_s: float
    line: Line | None = None
    parked: bool = False
    open: int = 0
    timers: dict[str, asyncio.TimerHandle] = field(default_factory=dict)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    left: ExitStack = field(default_factory=ExitStack)


class Conversations:
    """Keeps sessions; all methods but `begin` are for the event loop's thread.

    Args:
        models: What is served.
        sources: Where conditions are found that do not come with the request.
        limits: What is given to sessions.
        desk: Gives places on engines.
        live: What tenants may ask for.
    """

    def __init__(
        self, models: ServedModels, sources: Sources, limits: ConverseLimits, desk: Desk, live: LiveQuotas
    ) -> None:
        self.limits, self._desk, self._live = limits, desk, live
        self._models, self._sources = models, sources
        self._seats: dict[str, Seat] = {}
        self._tenants: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="converse")
        self._entering: set[SessionPlace] = set()
        self._ending = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def begin(
        self,
        start: wire.ConverseRequest.Start,
        urgency: Urgency,
        ids: dict[str, str],
        tell: Callable[[Waits], Awaitable[None]],
    ) -> Seat:
        """Begin a session as soon as there is a place for it.

        Args:
            start: What is wanted.
            urgency: Whose it is, and how soon it must begin.
            ids: Go along with its errors.
            tell: Hears how it stands while it waits.

        Raises:
            InputError: It cannot be made here.
            ResourceError: There are as many as are taken, or no place in time, or a quota is used up.
            EngineError: The engine is lost, or the server is about to end.
            CoordinatorError: Nobody decides.
        """
        tenant = urgency.tenant
        self.check_room(tenant)
        self._loop = asyncio.get_running_loop()
        model = self._models.find(start.video.model)
        self._tenants[tenant] += 1
        try:
            plan = partial(self._plan, start, urgency, ids)
            job, terms = await self._sources.plan(start.video, model.entry, tenant, plan)
            name, frames = job.request.request_id, job.request.frames
            charges = SessionCharges(self._live, await self._live.enter(tenant, name, frames))
            try:
                place = await self._enter(SessionPlace(self._desk, job, model.entry.name, urgency), model, tell)
                try:
                    conversation = await _open(lambda: Conversation(open_stream(job, model), terms, self, charges))
                except BaseException:
                    place.leave()
                    raise
            except BaseException:
                charges.leave(frames)
                raise
        finally:
            self._count_out(tenant)
        return self._take_in(conversation, place)

    async def _enter(
        self, place: SessionPlace, model: ServedModel, tell: Callable[[Waits], Awaitable[None]]
    ) -> SessionPlace:
        """Wait for a place, also while the server ends."""
        self._entering.add(place)
        try:
            with model.counted():
                await place.enter(tell)
        finally:
            self._entering.discard(place)
        return place

    def adopt(self, conversation: Conversation) -> None:
        """See `Home`. It goes on beside the session that it was forked from until it has a place of its own."""
        terms = conversation.terms
        urgency = Urgency(tenant=terms.tenant, priority=terms.priority)
        place = SessionPlace(self._desk, conversation.job, terms.model.entry.name, urgency)
        assert self._loop is not None, "what was forked was begun"
        self._loop.call_soon_threadsafe(self._take_in, conversation, place)

    def check_room(self, tenant: str) -> None:
        """See `Home`.

        Raises:
            ResourceError: There are as many as are taken.
            EngineError: The server is about to end.
        """
        if self._ending:
            raise EngineError("the server is about to end and takes nothing new; try again soon")
        if self._tenants.total() >= self.limits.most:
            raise ResourceError(f"this server has {self.limits.most} sessions, and takes no more; try again later")
        if self._tenants[tenant] >= self.limits.most_of_tenant:
            raise ResourceError(f"'{tenant}' has {self._tenants[tenant]} sessions already; end one, and try again")

    def find(self, said: wire.ConverseRequest.Continue, tenant: str) -> Seat:
        """The session that a call goes on with.

        Raises:
            UnknownSessionError: There is none of this tenant.
        """
        seat = self._seats.get(said.session_id)
        if seat is None or seat.conversation.terms.tenant != tenant:
            raise UnknownSessionError(
                "there is no such session here: it has ended, was not taken up in time, or its server was lost; begin "
                "another"
            )
        return seat

    def attach(self, seat: Seat, line: Line) -> None:
        """Put a session on a call; one that it was on loses it."""
        if seat.line is not None:
            seat.line.take_away()
        seat.line, seat.heard_s = line, _now()
        _stop_timer(seat, "keep")
        if seat.parked:
            seat.parked = False
            self.in_order(seat, seat.conversation.unpark)

    def detach(self, seat: Seat, line: Line, *, ends: bool) -> None:
        """A call is over; its session waits for another one, or ends."""
        if seat.line is not line:
            return
        seat.line = None
        keep_s = seat.conversation.terms.keep_s
        if ends or self._ending or not keep_s:
            self.drop(seat)
            return
        self._wait_for_call(seat, keep_s)
        seat.parked = True
        self.in_order(seat, seat.conversation.park)

    def heard(self, seat: Seat) -> None:
        """A client gave a sign of life."""
        seat.heard_s = _now()

    def in_order(self, seat: Seat, act: Callable[[], None]) -> None:
        """Do something that may take time, behind what was asked for before."""
        seat.open += 1

        async def run() -> None:
            try:
                async with seat.turn:
                    await asyncio.get_running_loop().run_in_executor(self._pool, act)
            finally:
                seat.open -= 1

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def drop(self, seat: Seat, error: ReelrayError | None = None) -> None:
        """End a session; harmless when called twice."""
        if self._seats.pop(seat.conversation.id, None) is None:
            return
        for name in [*seat.timers]:
            _stop_timer(seat, name)
        seat.left.close()
        seat.place.leave()
        self._count_out(seat.conversation.terms.tenant)
        seat.conversation.charges.leave(_unmade(seat.conversation, error, self._ending))
        _close(seat.conversation, error)

    def end(self, grace_s: float) -> None:
        """Take nothing new; sessions that nobody is on end now, the others after so long."""
        self._ending = True
        error = EngineError("the server ends; begin another session, here soon or on another server")
        for place in self._entering:
            place.refuse(error)
        for seat in [*self._seats.values()]:
            if seat.line is None:
                self.drop(seat)
            else:
                loop = asyncio.get_running_loop()
                _stop_timer(seat, "end")
                seat.timers["end"] = loop.call_later(grace_s, _close, seat.conversation, error)

    def close(self) -> None:
        """All calls are over; free the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _plan(
        self, start: wire.ConverseRequest.Start, urgency: Urgency, ids: dict[str, str], video: video_spec_pb2.VideoSpec
    ) -> tuple[RenderJob, Terms]:
        check_start(start, self.limits.longest_keep_s)
        model = self._models.find(start.video.model)
        terms = Terms(
            model=model,
            tenant=urgency.tenant,
            priority=urgency.priority,
            media=start.media,
            keep_s=start.keep_s,
            window_bytes=self.limits.window_bytes,
            ids=ids,
        )
        return plan_stream(start, video, model), terms

    def _take_in(self, conversation: Conversation, place: SessionPlace) -> Seat:
        terms = conversation.terms
        waits_s = max(terms.keep_s, self.limits.fork_s)
        seat = Seat(conversation=conversation, place=place, waits_s=waits_s, heard_s=_now())
        self._seats[conversation.id] = seat
        self._tenants[terms.tenant] += 1
        seat.left.enter_context(terms.model.counted())
        self._wait_for_call(seat, seat.waits_s)
        self._watch(seat)
        self._look(seat)
        conversation.start()
        return seat

    def _count_out(self, tenant: str) -> None:
        self._tenants[tenant] -= 1
        if not self._tenants[tenant]:
            del self._tenants[tenant]

    def _wait_for_call(self, seat: Seat, wait_s: float) -> None:
        _stop_timer(seat, "keep")
        seat.timers["keep"] = asyncio.get_running_loop().call_later(wait_s, self.drop, seat)

    def _look(self, seat: Seat) -> None:
        """See whether it needs its place, again and again."""
        conversation = seat.conversation
        works = conversation.moves() and not seat.parked
        seat.place.look(works=works, done=conversation.steps, total=conversation.all_steps)
        seat.timers["place"] = asyncio.get_running_loop().call_later(LOOK_S, self._look, seat)

    def _watch(self, seat: Seat) -> None:
        """End a session that only holds room, and look again when the next one could be that."""
        left_s = seat.heard_s + self.limits.idle_s - _now()
        conversation = seat.conversation
        waits = conversation.is_paused or not conversation.log.is_empty
        if left_s <= 0 and waits and not conversation.log.ended:
            error = CancelledError(f"nothing was said or received for {self.limits.idle_s:g} s; the session was ended")
            _close(conversation, error)
            return
        wait_s = left_s if left_s > 0 else self.limits.idle_s
        seat.timers["idle"] = asyncio.get_running_loop().call_later(wait_s, self._watch, seat)


async def _open(begin: Callable[[], Conversation]) -> Conversation:
    """Begin on the engine; what is wanted no more when that is done is closed."""
    opening = asyncio.ensure_future(asyncio.to_thread(begin))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise


def _unmade(conversation: Conversation, error: ReelrayError | None, is_ending: bool) -> int:
    """Frames that its client did not get for no reason of its own."""
    error = error or conversation.log.error
    if isinstance(error, CancelledError) or (error is None and not is_ending):
        return 0
    return conversation.frames_left


def _now() -> float:
    return asyncio.get_running_loop().time()


def _stop_timer(seat: Seat, name: str) -> None:
    if (timer := seat.timers.pop(name, None)) is not None:
        timer.cancel()


def _close(conversation: Conversation, error: ReelrayError | None) -> None:
    """In a thread of its own: an engine may take its time."""
    threading.Thread(target=conversation.close, args=(error,), name="leave a session", daemon=True).start()


def _close_unwanted(opened: "asyncio.Future[Conversation]") -> None:
    """Whoever wanted it has left meanwhile."""
    if not opened.cancelled() and opened.exception() is None:
        _close(opened.result(), None)
