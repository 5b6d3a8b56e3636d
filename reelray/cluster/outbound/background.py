"""Calls that block, in threads that no process waits for when it ends."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")


async def in_background(name: str, call: Callable[[], Result]) -> Result:
    """Await a call in a thread of its own; who is cancelled leaves it to its end. Raises what it raises.

    Args:
        name: Of the thread.
        call: What to do.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if ended.cancelled():
            return
        if error is not None:
            ended.set_exception(error)
        else:
            ended.set_result(result)  # type: ignore[arg-type]  # there is one where there is no error

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:  # noqa: BLE001  it goes to whoever awaits
            error = raised
        with suppress(RuntimeError):  # nobody is there any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await ended
