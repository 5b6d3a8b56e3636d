"""Renders that a house is told to make, one task for each."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from reelray.cluster.coordinator.desk import Desk
from reelray.cluster.coordinator.messages import Begin, Ended, MadeRoom, Moved, Run
from reelray.cluster.renders.attempt import Attempt
from reelray.cluster.renders.worker import RenderWorker
from reelray.cluster.store.names import JobRef
from reelray.proto.request import RequestId

LOG = logging.getLogger("reelray.renders")
TELL_S = 1.0
LEAST_SHARE = 0.02
"""What is left is not extrapolated from less."""


@dataclass(kw_only=True, slots=True)
class _Order:
    begin: Begin
    begun_s: float
    task: "asyncio.Task[None] | None" = None
    attempt: Attempt | None = None
    is_to_end: bool = False


class RenderOrders:
    """Carries out what the coordinator decides about renders; ends with `close`.

    Args:
        desk: Where orders come from, and are reported.
        worker: Makes them.
        clock: Monotonic seconds.
    """

    def __init__(self, desk: Desk, worker: RenderWorker, clock: Callable[[], float] = time.monotonic) -> None:
        self._desk, self._worker, self._clock = desk, worker, clock
        self._orders: dict[RequestId, _Order] = {}

    def begin(self, begin: Begin) -> None:
        """Begin a render; its end is told to the desk."""
        if begin.request_id in self._orders:  # it comes to its end there, and is not to be had before
            self._desk.say(Ended(request_id=begin.request_id, run=begin.run))
            return
        order = self._orders[begin.request_id] = _Order(begin=begin, begun_s=self._clock())
        order.task = asyncio.create_task(self._carry_out(order), name=f"render {begin.request_id}")

    def make_room(self, request_id: RequestId, run: int) -> None:
        """Put a render down at its next commit or step."""
        order = self._orders.get(request_id)
        if order is None or order.begin.run != run:
            return
        order.is_to_end = True
        if order.attempt is not None:
            order.attempt.make_room()

    def runs(self) -> tuple[Run, ...]:
        """What is being made."""
        return tuple(_run(order, self._clock()) for order in self._orders.values())

    async def close(self) -> None:
        """Give back what was begun; it goes on from its last commit wherever it is made next."""
        tasks = [order.task for order in self._orders.values() if order.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry_out(self, order: _Order) -> None:
        begin, gives_way = order.begin, False
        began_s, pace = self._clock(), None
        try:
            lease = await self._worker.claim(JobRef.parse(begin.request_id.encode()))
            if lease is not None:
                order.attempt = attempt = self._worker.attempt(lease)
                if order.is_to_end:
                    attempt.make_room()
                telling = asyncio.create_task(self._tell(order, began_s))
                try:
                    is_made = await self._worker.work_on(lease, attempt)
                finally:
                    telling.cancel()
                gives_way = order.is_to_end and not is_made
                if is_made and attempt.own_share == 1.0 and not order.is_to_end:
                    pace = self._desk.measured(begin, self._clock() - began_s)
        finally:
            del self._orders[begin.request_id]
            if gives_way and order.attempt is not None:
                assert begin.render is not None, "orders are of renders"
                left = order.attempt.left / begin.render.left
                self._desk.say(MadeRoom(request_id=begin.request_id, run=begin.run, left=left))
            else:
                self._desk.say(Ended(request_id=begin.request_id, run=begin.run, pace=pace))

    async def _tell(self, order: _Order, began_s: float) -> None:
        """Tell again and again how long it will take, as it gets on."""
        assert order.attempt is not None, "it has begun"
        while True:
            await asyncio.sleep(TELL_S)
            made = order.attempt.own_share
            if made < LEAST_SHARE:
                continue
            remaining_s = (self._clock() - began_s) * (1.0 - order.attempt.share) / made
            begin = order.begin
            self._desk.say(Moved(request_id=begin.request_id, run=begin.run, remaining_s=remaining_s))


def _run(order: _Order, now: float) -> Run:
    begin = order.begin
    assert begin.render is not None, "orders are of renders"
    share = 0.0 if order.attempt is None else order.attempt.share
    within_s = None if begin.render.within_s is None else begin.render.within_s - (now - order.begun_s)
    return Run(
        wish=replace(begin.render, within_s=None if within_s is None or within_s <= 0 else within_s),
        engine_id=begin.engine_id,
        gpus=begin.gpus,
        run=begin.run,
        left=max(LEAST_SHARE, min(begin.left, (1.0 - share) / begin.render.left)),
        is_render=True,
    )
