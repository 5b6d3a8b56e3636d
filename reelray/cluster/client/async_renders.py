"""Calls of `Renders` in asyncio, tried again where the server or its store is away for a while."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

import grpc

from reelray.cluster.client.connection import ServerAddress, error_of
from reelray.cluster.client.kept_reading import Cursor, Downloading, Pages, Wanted, Watching, write_submission
from reelray.cluster.client.kept_render import KeptEvent, KeptRender, read_render
from reelray.cluster.client.kept_renders import CALL_S, PATIENCE_S
from reelray.cluster.client.patience import Patience
from reelray.cluster.render import RenderOptions
from reelray.cluster.store.job import JobState
from reelray.proto.errors import ReelrayError
from reelray.proto.v1 import renders_pb2 as wire
from reelray.proto.v1 import renders_pb2_grpc

Answer = TypeVar("Answer")
Item = TypeVar("Item")


class AsyncRenders:
    """The renders that a server keeps for this caller; see `KeptRenders`, which waits in threads.

    Args:
        channel: To the server.
        server: Whose it is.
        patience_s: How long a call goes on trying.
    """

    def __init__(self, channel: grpc.aio.Channel, server: ServerAddress, patience_s: float = PATIENCE_S) -> None:
        self._stub: Any = renders_pb2_grpc.RendersStub(channel)  # type: ignore[no-untyped-call]
        self._metadata, self._patience_s = server.metadata, patience_s

    async def submit(self, options: RenderOptions, wanted: Wanted) -> tuple[KeptRender, bool]:
        """See `KeptRenders.submit`."""
        answer = await self._ask(self._stub.Submit, write_submission(options, wanted))
        return read_render(answer.render), answer.fresh

    async def get(self, render_id: str) -> KeptRender:
        """See `KeptRenders.get`."""
        return read_render(await self._ask(self._stub.Get, wire.GetRenderRequest(id=render_id)))

    async def list(self, state: JobState | None = None) -> AsyncGenerator[KeptRender, None]:
        """See `KeptRenders.list`."""
        pages = Pages(state)
        while pages.more:
            for render in pages.take(await self._ask(self._stub.List, pages.request)):
                yield render

    async def cancel(self, render_id: str) -> KeptRender:
        """See `KeptRenders.cancel`."""
        return read_render(await self._ask(self._stub.Cancel, wire.CancelRenderRequest(id=render_id)))

    def watch(self, render_id: str, *, after: int = 0) -> AsyncGenerator[KeptEvent, None]:
        """See `KeptRenders.watch`."""
        return self._read(self._stub.Watch, Watching(render_id, after))

    def download(
        self, render_id: str, *, offset: int = 0, length: int | None = None, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """See `KeptRenders.download`."""
        return self._read(self._stub.Download, Downloading(render_id, offset, length, follow=follow))

    async def _ask(self, call: Callable[..., Awaitable[Answer]], said: object) -> Answer:
        patience = Patience(self._patience_s)
        while True:
            try:
                return await call(said, metadata=self._metadata, timeout=CALL_S)
            except grpc.RpcError as failed:
                await asyncio.sleep(patience.pause_s(error_of(failed)))

    async def _read(self, call: Callable[..., Any], cursor: Cursor[Any, Item]) -> AsyncGenerator[Item, None]:
        patience = Patience(self._patience_s)
        while not cursor.complete:
            messages = call(cursor.request, metadata=self._metadata)
            try:
                async for message in messages:
                    item = cursor.take(message)
                    patience.heard()
                    yield item
            except grpc.RpcError as failed:
                await asyncio.sleep(patience.pause_s(error_of(failed)))
            except ReelrayError as error:
                await asyncio.sleep(patience.pause_s(error))
            else:
                return
            finally:
                messages.cancel()
