"""Tells whoever wants to know that renders have ended: at least once, until somebody there says that it was heard."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus

from reelray.cluster.outbound.allow_list import Reach
from reelray.cluster.outbound.background import in_background
from reelray.cluster.outbound.exchange import Answer, Letter, Limits, exchange
from reelray.cluster.renders.webhook_event import WebhookEvent
from reelray.cluster.renders.webhook_turns import OF_A_RECEIVER, WebhookTurns
from reelray.cluster.store.connection import Connection
from reelray.cluster.store.webhooks import DueWebhook, Share, Webhooks, receiver_of
from reelray.proto.errors import InputError, ReelrayError

LOG = logging.getLogger("reelray.renders")


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookHabits:
    """How webhooks are told.

    Args:
        look_s: Pause between looks for ends that are to be told.
        first_pause_s: After the first try that failed; twice as long after each further one.
        longest_pause_s: Between two tries.
        give_up_s: After a render's end; who has not listened until then is not told.
        limits: Of one try.
        slow_s: A try that takes longer gives its turn to others, while it goes on.
    """

    look_s: float = 0.5
    first_pause_s: float = 5.0
    longest_pause_s: float = 3600.0
    give_up_s: float = 86_400.0
    limits: Limits = field(default_factory=lambda: Limits(total_s=15.0, largest_bytes=None))
    slow_s: float = 1.0

    @property
    def hold_s(self) -> float:
        """For how long a server has a try for itself: longer than it can take."""
        return 2 * self.limits.total_s + 30.0

    def pause_s(self, job_id: str, tries: int) -> float:
        """How long it rests after so many tries; up to a fifth more, so that not all come back at once."""
        spread = hashlib.sha256(f"{job_id}.{tries}".encode()).digest()[0] / 255 / 5
        return min(self.first_pause_s * 2.0 ** (tries - 1), self.longest_pause_s) * (1 + spread)


class WebhookTeller:
    """Works until its task is cancelled; any number of servers may do so over one store.

    Args:
        connection: The store.
        reach: Who may be told, and the key to sign with.
        habits: How.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        connection: Connection,
        reach: Reach,
        habits: WebhookHabits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._webhooks, self._reach, self._clock = Webhooks(connection), reach, clock
        self._habits = habits or WebhookHabits()
        self._turns = WebhookTurns(self._habits.slow_s, time.monotonic)

    async def run(self) -> None:
        """Tell; see the class.

        Raises:
            StoreError: The store does not answer; what was being told is told again.
        """
        telling = set[asyncio.Task[None]]()
        try:
            while True:
                if free := self._turns.free:
                    share = Share(most=OF_A_RECEIVER, taken=self._turns.taken(), later_s=self._habits.look_s)
                    due = await self._webhooks.claim(free, hold_s=self._habits.hold_s, share=share)
                    telling |= {self._begin(one) for one in due}
                telling = await self._rest(telling)
        finally:
            for task in telling:
                task.cancel()
            await asyncio.gather(*telling, return_exceptions=True)

    def _begin(self, due: DueWebhook) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._tell(due))
        self._turns.begin(task, "" if due.job.webhook is None else receiver_of(due.job.webhook.url))
        task.add_done_callback(self._turns.end)
        return task

    async def _rest(self, telling: "set[asyncio.Task[None]]") -> "set[asyncio.Task[None]]":
        """Wait until one of them is told, or for a while; gives those that are not."""
        if not telling:
            await asyncio.sleep(self._habits.look_s)
            return telling
        done, left = await asyncio.wait(telling, timeout=self._habits.look_s, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        return left

    async def _tell(self, due: DueWebhook) -> None:
        try:
            event = WebhookEvent.of(due.job)
            answer = await in_background("webhook", partial(self._send, due, event))
            why = f"it answered {answer.status}"
        except ReelrayError as error:
            answer, why = None, error.message
        if answer is not None and 200 <= answer.status < 300:
            await self._webhooks.delivered(due)
            return
        LOG.info("the end of render %s was not heard (try %d): %s", due.job.ref.id, due.number, why)
        pause_s = self._habits.pause_s(due.job.ref.id, due.number)
        is_gone = answer is not None and answer.status == HTTPStatus.GONE
        if is_gone or self._clock() + pause_s > (due.job.ended_ms or 0) / 1000 + self._habits.give_up_s:
            await self._webhooks.give_up(due, why)
        else:
            await self._webhooks.failed(due, why, pause_s=pause_s)

    def _send(self, due: DueWebhook, event: WebhookEvent) -> Answer:
        if due.job.webhook is None:
            raise InputError("nobody wants to know")
        address = self._reach.webhooks.check(due.job.webhook.url)
        headers = event.headers(self._reach.webhook_secret, now_s=int(self._clock()))
        return exchange(address, Letter(method="POST", body=event.body, headers=headers), self._habits.limits)
