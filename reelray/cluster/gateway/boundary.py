"""Where a call ends: whatever was raised becomes a status, and nothing of the server's inside gets out."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import grpc

from reelray.cluster.gateway.statuses import status_of
from reelray.proto.errors import CancelledError, ReelrayError

LOG = logging.getLogger("reelray.gateway")
INTERNAL = "an unexpected error; the server's log says more"
UNREAD_S = 300.0
"""How long a caller may leave a message unread."""
LAST_WORD_S = 10.0
Answer = TypeVar("Answer")
Context: TypeAlias = Any
"""`grpc.aio.ServicerContext`, which has no types."""


async def or_status(
    context: Context,
    work: Callable[[], Awaitable[Answer]],
    ids: Mapping[str, str] | None = None,
    listen: Callable[[ReelrayError], None] = lambda _error: None,
) -> Answer:
    """Await something; what it raises ends the call with a status.

    Args:
        context: Of the call.
        work: What to await.
        ids: Go along with its errors.
        listen: Told of its errors.
    """
    try:
        return await work()
    except ReelrayError as error:
        error.ids = {**(ids or {}), **error.ids}
        listen(error)
        await _end(context, error)
    except Exception:
        LOG.exception("call %s failed unexpectedly", dict(ids or {}))
        await _end(context, ReelrayError(INTERNAL, ids=ids))
    raise AssertionError("abort raises")


async def _end(context: Context, error: ReelrayError) -> None:
    """Say what happened; who does not read cannot be told, and is not waited for."""
    async with asyncio.timeout(LAST_WORD_S):
        await context.abort_with_status(status_of(error))


async def send(context: Context, message: object) -> None:
    """Send the next message of a stream; waits while the caller does not read.

    Raises:
        CancelledError: The caller reads nothing any more, or has left.
    """
    try:
        async with asyncio.timeout(UNREAD_S):  # `wait_for` forgets a cancellation that comes with the answer
            await context.write(message)
    except TimeoutError:
        raise CancelledError(f"nothing was read for {UNREAD_S:g} s; the call was ended") from None
    except grpc.aio.InternalError:  # gRPC has no better word for it
        raise CancelledError("the caller has left") from None
