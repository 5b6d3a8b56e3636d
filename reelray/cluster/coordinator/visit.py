"""A request of a house: it waits for a place, runs, and gives the place back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from reelray.cluster.coordinator.messages import Begin, Ended, Left, Moved, Report, Run, Turned, Waits, Wish
from reelray.cluster.coordinator.refusals import nobody_decides, refusal
from reelray.proto.errors import ReelrayError
from reelray.proto.request import RequestId

AWAY_S = 30.0
"""Who waits hears something every second; after so many without a word nobody decides any more."""
AT_ONCE_S = 0.05
"""Who begins within that is not told that it waits."""
TELL_S = 1.0
LEAST_SHARE = 0.02
"""What is left is not extrapolated from less."""


class Visit:
    """Of one event loop. Times go on while the coordinator changes hands.

    Args:
        wish: What is asked for.
        say: Tells the coordinator something, if there is one.
        clock: Monotonic seconds.
    """

    def __init__(self, wish: Wish, say: Callable[[Report], None], clock: Callable[[], float]) -> None:
        self._wish, self._say, self._clock = wish, say, clock
        self._asked_s = clock()
        self._news: asyncio.Queue[Waits | Begin | Turned | ReelrayError | None] = asyncio.Queue()
        self._told_s = self._began_s = 0.0
        self._share = 0.0
        self._first: Waits | None = None
        self.begun: Begin | None = None
        self._is_over = self._is_alone = False

    @property
    def name(self) -> RequestId:
        """Of the request."""
        return self._wish.request_id

    def hear(self, news: Waits | Begin | Turned) -> None:
        """Take what was decided: it counts at once, however late whoever waits comes to look."""
        if isinstance(news, Begin):
            if self._is_over:
                self._say(Ended(request_id=self._wish.request_id, run=news.run))
                return
            self.begun, self._began_s = news, self._clock()
        elif isinstance(news, Turned):
            self._is_over = True
        self._news.put_nowait(news)

    def go_on_alone(self) -> None:
        """Begin without a place, and without a word to the coordinator from now on."""
        self._is_over = True
        if self.begun is None:
            self._news.put_nowait(None)

    def refuse(self, error: ReelrayError) -> None:
        """Tell whoever waits that it gets no place, whatever the coordinator will say."""
        self.end()
        self._news.put_nowait(error)

    async def first(self, within_s: float) -> Waits | None:
        """The first answer: how it stands, or None where it may begin at once.

        Raises:
            ReelrayError: It gets no place, or nobody decides.
        """
        self._first = await self._next(within_s)
        return self._first

    async def standings(self) -> AsyncIterator[Waits]:
        """How it stands, again and again, until it may begin.

        Raises:
            ReelrayError: It gets no place after all, or nobody decides any more.
        """
        if self._first is not None:
            await asyncio.sleep(0 if self._news.qsize() else AT_ONCE_S)
            if not self._news.qsize():
                yield self._first
        while self.begun is None and not self._is_alone:
            waits = await self._next(AWAY_S)
            if waits is not None:
                yield waits

    def moved(self, done: int, total: int) -> None:
        """Note how much is done."""
        self._share = min(1.0, done / total) if total else 0.0
        now = self._clock()
        if self.begun is None or self._is_over or self._share < LEAST_SHARE or now - self._told_s < TELL_S:
            return
        self._told_s = now
        remaining_s = (now - self._began_s) * (1.0 - self._share) / self._share
        self._say(Moved(request_id=self._wish.request_id, run=self.begun.run, remaining_s=remaining_s))

    def end(self, pace: float | None = None) -> None:
        """It runs no more, or does without its place; harmless when said twice.

        Args:
            pace: Of its engine, as measured.
        """
        if self._is_over:
            return
        self._is_over = True
        if self.begun is None:
            self._say(Left(request_id=self._wish.request_id))
        else:
            self._say(Ended(request_id=self._wish.request_id, run=self.begun.run, pace=pace))

    @property
    def took_s(self) -> float:
        """Seconds since it began."""
        return self._clock() - self._began_s

    def as_waiting(self) -> Wish | None:
        """What another coordinator has to know of it; None if it waits no more."""
        if self.begun is not None or self._is_over:
            return None
        waited_s = self._clock() - self._asked_s
        within_s = self._wish.within_s
        return replace(
            self._wish, waited_s=waited_s, within_s=None if within_s is None else max(0.0, within_s - waited_s)
        )

    def as_run(self) -> Run | None:
        """The same of one that runs."""
        if self.begun is None or self._is_over:
            return None
        return Run(
            wish=replace(self._wish, within_s=None, waited_s=self._clock() - self._asked_s),
            engine_id=self.begun.engine_id,
            gpus=self.begun.gpus,
            run=self.begun.run,
            left=max(LEAST_SHARE, 1.0 - self._share),
            is_render=False,
        )

    async def _next(self, within_s: float) -> Waits | None:
        try:
            async with asyncio.timeout(within_s):
                news = await self._news.get()
        except TimeoutError:
            raise nobody_decides() from None
        if news is None:
            self._is_alone = True
            return None
        if isinstance(news, ReelrayError):
            raise news
        if isinstance(news, Turned):
            raise refusal(news, self._wish)
        return None if isinstance(news, Begin) else news
