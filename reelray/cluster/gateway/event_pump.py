"""A blocking iterator for one asyncio task.

A thread takes its items and waits until each was handed on: who reads slowly holds the source back.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from typing import Generic, TypeVar

Item = TypeVar("Item")


class EventPump(Generic[Item]):
    """Runs a blocking iterable in a thread of its own; iterate once.

    Args:
        source: Iterated over in that thread.
        leave: Called from another thread when nobody takes any more, so that a wait inside `source` ends.
        name: Of the thread.
        ahead: Items that are made ready before they are asked for. Of many videos at once those that came last would
            otherwise wait for three turns of a busy loop where others wait for one.
    """

    def __init__(self, source: Iterable[Item], *, leave: Callable[[], None], name: str, ahead: int = 0) -> None:
        self._source, self._leave, self._name = source, leave, name
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[tuple[Item] | BaseException | None] = asyncio.Queue()
        self._wanted = threading.Semaphore(ahead)
        self._gone = threading.Event()

    async def items(self) -> AsyncGenerator[Item, None]:
        """Yield what the source yields and raise what it raises; it goes on only as far as `ahead` allows."""
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        thread.start()
        try:
            while (item := await self._items.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item[0]
                self._wanted.release()
        finally:
            self._gone.set()
            self._wanted.release()
            if thread.is_alive():
                threading.Thread(target=self._leave, name=f"leave {self._name}", daemon=True).start()

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            self._take()
        except BaseException as error:  # noqa: BLE001  raised again where it is awaited
            end = error
        self._put(end)

    def _take(self) -> None:
        for item in self._source:
            if self._gone.is_set():
                return
            self._put((item,))
            self._wanted.acquire()
            if self._gone.is_set():
                return

    def _put(self, item: tuple[Item] | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop may be over by now, and everybody gone
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
