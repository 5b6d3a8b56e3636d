"""One call of `Videos.Converse`: what its client says goes in, what its session says goes out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

from reelray.cluster.coordinator.messages import Waits
from reelray.cluster.gateway.boundary import Context, or_status, send
from reelray.cluster.gateway.callers import Callers
from reelray.cluster.gateway.conversation import check_command
from reelray.cluster.gateway.conversations import Conversations, Seat
from reelray.cluster.gateway.message_guard import UNREADABLE
from reelray.cluster.gateway.option_check import check_options
from reelray.cluster.gateway.session_place import read_urgency
from reelray.cluster.gateway.video_answers import standing
from reelray.proto.errors import CancelledError, FencedError, InputError, ReelrayError, ResourceError, UnsupportedError
from reelray.proto.v1 import converse_pb2 as wire

CLOCKS_S = 1.0
"""By which the clocks of a deadline differ: the client may end a call before the server knows that it is time."""


async def converse(
    conversations: Conversations, callers: Callers, requests: AsyncIterator[wire.ConverseRequest], context: Context
) -> None:
    """Answer a call.

    Args:
        conversations: The sessions of this server.
        callers: Who may call.
        requests: What the client says.
        context: Of the call.
    """
    requests = aiter(requests)

    async def tell(waits: Waits) -> None:
        await send(context, wire.ConverseEvent(queued=standing(waits)))

    async def sit_down() -> ConverseCall:
        first = await _first_of(requests, conversations.limits.first_s)
        if first.HasField("start"):
            options = first.start.options
            ids = check_options(options, ("deadline", "priority"), "Videos.Converse")
            urgency = read_urgency(options, callers.tenant_of(context, options.tenant))
            seat, after = await conversations.begin(first.start, urgency, ids, tell), 0
        else:
            seat = conversations.find(first.go_on, callers.tenant_of(context, first.go_on.tenant))
            after = first.go_on.after
            seat.conversation.log.received(after)
        return ConverseCall(conversations, seat, context, after)

    call = await or_status(context, sit_down)
    await or_status(context, lambda: call.run(requests), call.ids)


async def _first_of(requests: AsyncIterator[wire.ConverseRequest], wait_s: float) -> wire.ConverseRequest:
    try:
        async with asyncio.timeout(wait_s):
            first = await anext(requests, None)
    except TimeoutError:
        raise CancelledError(f"nothing was said for {wait_s:g} s; the call was ended") from None
    if first is None:
        raise InputError("the call ended without a word; its first message is start or go_on")
    _check_readable(first)
    if first.WhichOneof("message") not in {"start", "go_on"}:
        raise InputError(f"the first message of a call is start or go_on, and this was {first.WhichOneof('message')}")
    return first


def _check_readable(message: object) -> None:
    if message is UNREADABLE:
        raise InputError("what came is no message of this call; was it sent by another version?")


class ConverseCall:
    """Relays between a client and its session, until one of them is done.

    Args:
        conversations: The sessions of this server.
        seat: That of this call.
        context: Of the call.
        after: Number of the last event that the client has.
    """

    def __init__(self, conversations: Conversations, seat: Seat, context: Context, after: int) -> None:
        self._conversations, self._seat, self._context, self._after = conversations, seat, context, after
        self._conversation, self._log = seat.conversation, seat.conversation.log
        self._is_kept = bool(self._conversation.terms.keep_s)
        self.ids = self._conversation.ids
        self._news, self._taken_away = asyncio.Event(), asyncio.Event()
        self._said_all = False
        self._loop = asyncio.get_running_loop()
        conversations.attach(seat, self)
        self._log.listen = self._wake

    def take_away(self) -> None:
        """See `Line`."""
        self._taken_away.set()

    async def run(self, requests: AsyncIterator[wire.ConverseRequest]) -> None:
        """Relay until the session or the call is over.

        Raises:
            ReelrayError: The session failed, the client said what cannot be said, or another call has the session.
        """
        ends = True
        try:
            ends = await self._relay(requests) or self._log.is_empty
        except asyncio.CancelledError:  # a deadline was meant to be the end; a line that broke was not
            left_s = self._context.time_remaining()
            ends = left_s is not None and left_s < CLOCKS_S
            raise
        except ReelrayError as error:
            ends = error is self._log.error
            raise
        finally:
            self._conversations.detach(self._seat, self, ends=ends)

    async def _relay(self, requests: AsyncIterator[wire.ConverseRequest]) -> bool:
        """Relay; returns whether the client left."""
        await send(self._context, self._conversation.accepted())
        reading = asyncio.create_task(self._read(requests))
        writing = asyncio.create_task(self._write())
        lost = asyncio.create_task(self._taken_away.wait())
        tasks = {reading, writing, lost}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            left = reading.done() and await reading
            if reading.done() and not left:
                self._said_all = True
                self._news.set()
                await asyncio.wait({writing, lost}, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                raise FencedError("another call has taken this session up")
            if writing.done():
                await writing
            return left
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[wire.ConverseRequest]) -> bool:
        """Take in what the client says; returns whether it left, and not only has nothing more to say."""
        async for message in requests:
            _check_readable(message)
            self._conversations.heard(self._seat)
            kind = message.WhichOneof("message")
            if kind == "leave":
                return True
            if kind == "command":
                self._take_in(message.command)
            elif kind == "received":
                self._check_kept()
                self._log.received(message.received)
            elif kind is None:
                raise UnsupportedError("the message holds nothing that this version knows")
            else:
                raise InputError(f"{kind} is the first message of a call only")
        return False

    def _take_in(self, command: wire.ConverseRequest.Command) -> None:
        seat, conversation, most = self._seat, self._conversation, self._conversations.limits.open_commands
        if not check_command(command, conversation.commands):
            return
        if seat.open + self._log.answers >= most:
            raise ResourceError(f"{most} commands have no answer, or none that was received; wait for some")
        conversation.commands = command.number
        self._conversations.in_order(seat, partial(conversation.carry_out, command))

    def _check_kept(self) -> None:
        if not self._is_kept:
            raise InputError("received is said in sessions that are kept (keep_s)")

    async def _write(self) -> None:
        number = self._after
        while True:
            self._news.clear()
            ended = self._log.ended
            await self._send_progress()
            while (event := self._log.next_after(number)) is not None:
                await self._send_progress()  # what came before the end is told before it
                await send(self._context, event)
                number = event.number
                if not self._is_kept:
                    self._log.received(number)
                    self._conversations.heard(self._seat)
            if ended:
                break
            await self._news.wait()
        if self._log.error is not None:
            raise self._log.error
        with suppress(TimeoutError):  # it has been sent, and may be asked for again
            async with asyncio.timeout(self._conversations.limits.end_s):
                while not (self._log.is_empty or self._said_all):
                    self._news.clear()
                    await self._news.wait()

    async def _send_progress(self) -> None:
        for progress in self._log.take_progress():
            await send(self._context, progress)

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop may be over by now
            self._loop.call_soon_threadsafe(self._news.set)
