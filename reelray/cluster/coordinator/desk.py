"""Where a house meets the coordinator: what it has, asks for, and is told to do.

Lines to coordinators come and go; requests that wait or run stay, and are told to whoever comes next.
"""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from reelray.cluster.coordinator.engine_offers import EngineOffers
from reelray.cluster.coordinator.messages import (
    Asked,
    Begin,
    Ended,
    EngineCame,
    EngineWent,
    HowStands,
    Inquired,
    Joined,
    Load,
    LookedFor,
    MakeRoom,
    Report,
    Run,
    Turned,
    Waits,
    Wish,
    Word,
)
from reelray.cluster.coordinator.refusals import nobody_decides, refusal
from reelray.cluster.coordinator.visit import Visit
from reelray.cluster.gateway.served_models import ServedModels
from reelray.proto.errors import FencedError
from reelray.proto.request import RequestId

LOG = logging.getLogger("reelray.coordinator")
MOMENT_S = 0.02
STANDS_S = 0.5
ANSWER_S = 1.5
"""Who finds nobody to decide is told so within that."""


class Carrier(Protocol):
    """Makes renders of the store in a house."""

    def begin(self, begin: Begin) -> None:
        """Begin one, in the background; it says `Ended` or `MadeRoom`."""

    def make_room(self, request_id: RequestId, run: int) -> None:
        """Put one down at its next commit or step."""

    def runs(self) -> tuple[Run, ...]:
        """What it works on."""
        ...


class Desk:
    """Of one event loop.

    Args:
        house: Name of the house, unlike all others.
        models: Its engines.
        patience_s: How long a new request waits for somebody to decide.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        house: str,
        models: ServedModels,
        *,
        patience_s: float = ANSWER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.house = house
        self._offers = EngineOffers(house, models)
        self.patience_s, self._clock = patience_s, clock
        self._visits: dict[RequestId, Visit] = {}
        self._line: Callable[[Report], None] | None = None
        self._fence = -1
        self._carrier: Carrier | None = None
        self.loads: dict[str, Load] = {}
        """How much the engines of each model have to do, by the last word of the coordinator."""
        self._asked: dict[RequestId, asyncio.Future[Waits]] = {}
        self._inquiries: dict[RequestId, asyncio.Future[Waits | Turned]] = {}
        self._takes_work, self._is_looking = True, False
        loop = asyncio.get_running_loop()
        for model in models:
            model.listeners.append(lambda: _call_soon(loop, self.look_at_engines))

    def carry_renders(self, carrier: Carrier) -> None:
        """Let renders be made by this; without it none are."""
        self._carrier = carrier

    def connect(self, fence: int, say: Callable[[Report], None]) -> None:
        """Tell a coordinator all, and what happens from now on.

        Args:
            fence: Its own; those of its predecessors are heard no more.
            say: Takes reports; the first is `Joined`.

        Raises:
            FencedError: It is a predecessor of one that was heard.
        """
        self._check_fence(fence)
        self._line = say
        say(self._joined())

    def disconnect(self, say: Callable[[Report], None]) -> None:
        """That coordinator is gone; harmless where another has come."""
        if self._line is say:
            self._line = None

    def hear(self, word: Word) -> None:
        """Carry a decision out.

        Raises:
            FencedError: It was made by a predecessor of one that was heard; nothing is done.
        """
        self._check_fence(word.fence)
        decision = word.decision
        if isinstance(decision, Begin) and decision.render is not None:
            self._begin_render(decision)
        elif isinstance(decision, Load):
            self.loads[decision.model] = decision
        elif isinstance(decision, MakeRoom):
            if self._carrier is not None:
                self._carrier.make_room(decision.request_id, decision.run)
        else:
            self._tell_visit(decision)

    @asynccontextmanager
    async def ask(self, wish: Wish) -> AsyncIterator[Visit]:
        """Ask for a place, for the time of a block.

        Raises:
            ReelrayError: It gets none, at once; the message says when it could.
        """
        visit = self.open(wish)
        try:
            await visit.first(self.patience_s)
            yield visit
        finally:
            self.leave(visit)

    def open(self, wish: Wish) -> Visit:
        """Ask for a place, until `leave`; its `first` answer, and what follows, are to be waited for."""
        self.look_at_engines()
        self._visits[wish.request_id] = visit = Visit(wish, self.say, self._clock)
        if self._takes_work:
            self.say(Asked(wish=wish))
        else:
            visit.go_on_alone()
        return visit

    def leave(self, visit: Visit) -> None:
        """It runs no more, or is wanted no more; harmless when called twice."""
        visit.end()
        self._visits.pop(visit.name, None)

    async def inquire(self, wish: Wish) -> None:
        """Ask whether the deadline of a render can be kept that is to be submitted.

        Raises:
            ReelrayError: It cannot, and when it would be done; or nobody decides.
        """
        answer = self._inquiries[wish.request_id] = asyncio.get_running_loop().create_future()
        try:
            self.say(Inquired(wish=wish))
            async with asyncio.timeout(self.patience_s):
                said = await answer
        except TimeoutError:
            raise nobody_decides() from None
        finally:
            del self._inquiries[wish.request_id]
        if isinstance(said, Turned):
            raise refusal(said, wish)

    def say(self, report: Report) -> None:
        """Tell the coordinator something; what happens without one is in what the next is told at first."""
        if self._line is not None:
            self._line(report)

    def measured(self, begin: Begin, took_s: float) -> float | None:
        """Note how long something took that nothing disturbed; gives its engine's pace."""
        return self._offers.measured(begin.engine_id, begin.work_s, took_s)

    def look_for_renders(self) -> None:
        """A render was submitted; said once for all that come within a moment."""
        if not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(MOMENT_S, self._say_look)

    async def stands(self, name: RequestId) -> Waits | None:
        """How a render of the store stands; None if it does not wait, or nobody says in time."""
        if self._line is None:
            return None
        answer = self._asked.setdefault(name, asyncio.get_running_loop().create_future())
        self.say(HowStands(request_id=name))
        try:
            async with asyncio.timeout(STANDS_S):
                waits = await asyncio.shield(answer)
        except TimeoutError:
            return None
        finally:
            self._asked.pop(name, None)
        return waits if waits.position else None

    def look_at_engines(self) -> None:
        """Tell of engines that were lost or are there again."""
        if not self._takes_work:
            return
        came, went = self._offers.changes()
        for engine_id in went:
            self.say(EngineWent(engine_id=engine_id))
        for offer in came:
            self.say(EngineCame(offer=offer))

    def leave_work(self) -> None:
        """Take nothing more from the coordinator; who was let in and waits goes on to the engine's own line."""
        self._takes_work = False
        for visit in self._visits.values():
            visit.go_on_alone()
        for offer in self._offers.known():
            self.say(EngineWent(engine_id=offer.engine_id))

    def _say_look(self) -> None:
        self._is_looking = False
        self.say(LookedFor())

    def _joined(self) -> Joined:
        self._offers.changes()
        runs = [run for visit in self._visits.values() if (run := visit.as_run()) is not None]
        waiting = [wish for visit in self._visits.values() if (wish := visit.as_waiting()) is not None]
        renders = () if self._carrier is None else self._carrier.runs()
        engines = self._offers.known() if self._takes_work else ()
        return Joined(house=self.house, engines=engines, runs=(*runs, *renders), waiting=tuple(waiting))

    def _check_fence(self, fence: int) -> None:
        if fence < self._fence:
            raise FencedError(f"a coordinator with fence {fence} decides no more; {self._fence} does")
        self._fence = fence

    def _begin_render(self, begin: Begin) -> None:
        if self._carrier is None or not self._takes_work:
            self.say(Ended(request_id=begin.request_id, run=begin.run))
        else:
            self._carrier.begin(begin)

    def _tell_visit(self, decision: Waits | Begin | Turned) -> None:
        inquiry = self._inquiries.get(decision.request_id)
        if inquiry is not None and not isinstance(decision, Begin) and not inquiry.done():
            inquiry.set_result(decision)
        visit, asked = self._visits.get(decision.request_id), self._asked.get(decision.request_id)
        if asked is not None and isinstance(decision, Waits) and not asked.done():
            asked.set_result(decision)
        if visit is not None:
            visit.hear(decision)
        elif isinstance(decision, Begin):  # who asked has left meanwhile
            self.say(Ended(request_id=decision.request_id, run=decision.run))


def name_house() -> str:
    """A name that no other process has."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


def _call_soon(loop: asyncio.AbstractEventLoop, action: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(action)
