"""`reelray.AsyncClient`: videos from a server, in asyncio."""

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Self, Unpack

import grpc

from reelray.cluster.client.arguments import (
    DESCRIBE_S,
    FrameStack,
    LiveArguments,
    ServedEngine,
    VideoArguments,
    begin_dialogue,
    read_engines,
    read_live_arguments,
    read_waiting_arguments,
)
from reelray.cluster.client.async_renders import AsyncRenders
from reelray.cluster.client.async_session import AsyncSession
from reelray.cluster.client.async_uploads import async_upload
from reelray.cluster.client.connection import ServerAddress, error_of, open_async_channel
from reelray.cluster.client.kept_reading import Wanted
from reelray.cluster.client.kept_render import KeptEvent, KeptRender, read_state
from reelray.cluster.client.requests import KEEP_S, write_request
from reelray.cluster.client.uploads import UploadedAsset
from reelray.cluster.client.video_reader import VideoReader
from reelray.cluster.python_api import Rendered
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import InputError
from reelray.proto.events import Progress
from reelray.proto.v1 import cluster_pb2, cluster_pb2_grpc, videos_pb2_grpc
from reelray.proto.v1 import video_spec_pb2 as wire


class AsyncClient:
    """What `reelray.Client` is, for any number of tasks of one event loop; it connects with the first call.

        async with reelray.AsyncClient("gpu-7:50051", token=TOKEN) as client:
            clip = await client.render("a cat on a beach", seed=7)

    Args:
        address: ``HOST`` or ``HOST:PORT``.
        token: What the server wants to hear; None where it wants nothing.
        certificate: PEM file by which the server is known; None speaks in the clear.
    """

    def __init__(self, address: str, *, token: str | None = None, certificate: str | Path | None = None) -> None:
        file = None if certificate is None else Path(certificate).expanduser()
        self._server = ServerAddress(address=address, token=token, certificate=file)
        self._channel: grpc.aio.Channel | None = None
        self._sessions: weakref.WeakSet[AsyncSession] = weakref.WeakSet()
        self._connecting, self._closed = asyncio.Lock(), False

    async def describe(self) -> list[ServedEngine]:
        """Models of the server, and how busy they are.

        Raises:
            ReelrayError: The server refused, or was lost.
        """
        stub = cluster_pb2_grpc.ClusterStub(await self._connect())  # type: ignore[no-untyped-call]
        said = cluster_pb2.DescribeRequest()
        try:
            return read_engines(await stub.Describe(said, metadata=self._server.metadata, timeout=DESCRIBE_S))
        except grpc.RpcError as error:
            raise error_of(error) from None

    async def render(self, prompt: str, **arguments: Unpack[LiveArguments]) -> Rendered:
        """Have a video made and return its frames; cancelling the task stops it.

        Raises:
            ReelrayError: An option is wrong, or the server failed or was lost.
        """
        async with self._video(prompt, arguments) as (reader, batches):
            stack = FrameStack(reader.facts)
            async for batch_FHWC in batches:
                stack.add(batch_FHWC)
            return stack.rendered(reader.summary)

    async def render_stream(self, prompt: str, **arguments: Unpack[LiveArguments]) -> AsyncGenerator[FramesArray, None]:
        """Have a video made and yield its frames, RGB uint8 of shape H, W, 3, as they come.

        The server begins when the first is asked for. Closing the generator (`contextlib.aclosing`) stops it; whoever
        takes no frames holds it back.

        Raises:
            ReelrayError: An option is wrong, or the server failed or was lost.
        """
        async with self._video(prompt, arguments) as (_, batches):
            async for batch_FHWC in batches:
                for frame_HWC in batch_FHWC.copy():
                    yield frame_HWC

    def converse(
        self,
        prompt: str,
        *,
        pace: float | None = None,
        keep_s: int = KEEP_S,
        **arguments: Unpack[LiveArguments],
    ) -> AsyncSession:
        """A stream that is talked to while it is made; see `reelray.Client.converse`.

            async with client.converse("a cat sleeps", seconds=60) as session:
                async for frames in session:  # uint8, (F, H, W, 3)
                    if session.position > 200:
                        await session.say("the cat wakes up")

        Returns:
            The session; it begins with its `async with` block.

        Raises:
            InputError: An option is wrong.
        """
        dialogue, on_progress = begin_dialogue(prompt, arguments, pace=pace, keep_s=keep_s)
        return AsyncSession(
            self._connect,
            self._server,
            dialogue,
            on_progress=on_progress,
            patience_s=float(keep_s),
            beside=self._sessions,
        )

    async def submit(
        self,
        prompt: str,
        *,
        key: str | None = None,
        priority: int = 0,
        webhook: str | None = None,
        deadline: datetime | str | None = None,
        **arguments: Unpack[VideoArguments],
    ) -> KeptRender:
        """Have a video made by the server, whether or not anybody waits; see `reelray.Client.submit`."""
        wish, model = read_waiting_arguments(prompt, arguments)
        wanted = Wanted(model=model, key=key, priority=priority, webhook=webhook, deadline=deadline)
        return (await (await self._renders()).submit(wish, wanted))[0]

    async def upload(self, file: str | Path, *, keep_s: int = 0) -> UploadedAsset:
        """Have the server keep a file; name it in a video as ``image="asset:" + id``; see `client.uploads.upload`."""
        return await async_upload(await self._connect(), self._server, Path(file), keep_s=keep_s)

    async def get(self, render_id: str) -> KeptRender:
        """How a render is; see `KeptRenders`."""
        return await (await self._renders()).get(render_id)

    async def list(self, state: str | None = None) -> AsyncIterator[KeptRender]:
        """All renders, or those in a state such as ``running``, the newest first.

        Raises:
            InputError: There is no such state.
        """
        async with aclosing((await self._renders()).list(read_state(state))) as renders:
            async for render in renders:
                yield render

    async def cancel(self, render_id: str) -> KeptRender:
        """End a render that has not ended; see `KeptRenders`."""
        return await (await self._renders()).cancel(render_id)

    async def watch(self, render_id: str, *, after: int = 0) -> AsyncGenerator[KeptEvent, None]:
        """What happens to a render, up to its end, behind the event `after`; see `KeptRenders`."""
        async with aclosing((await self._renders()).watch(render_id, after=after)) as events:
            async for event in events:
                yield event

    async def download(
        self, render_id: str, *, offset: int = 0, length: int | None = None, follow: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """Bytes of a render's file, also while it grows; see `KeptRenders`."""
        renders = await self._renders()
        async with aclosing(renders.download(render_id, offset=offset, length=length, follow=follow)) as parts:
            async for data in parts:
                yield data

    async def close(self) -> None:
        """End the connection and what runs over it; harmless when called twice."""
        self._closed = True
        await asyncio.gather(*(session.close() for session in [*self._sessions]))
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def __aenter__(self) -> Self:
        await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @asynccontextmanager
    async def _video(
        self, prompt: str, arguments: LiveArguments
    ) -> AsyncIterator[tuple[VideoReader, AsyncIterator[FramesArray]]]:
        wish, how, on_progress = read_live_arguments(prompt, arguments)
        stub = videos_pb2_grpc.VideosStub(await self._connect())  # type: ignore[no-untyped-call]
        call: Any = stub.Generate(
            write_request(wish, how.model, wire.MEDIA_RGB24, how.deadline), metadata=self._server.metadata
        )
        try:
            events = aiter(call)
            reader = VideoReader(await anext(events, None))

            async def batches() -> AsyncIterator[FramesArray]:
                async for event in events:
                    came = reader.take(event)
                    if isinstance(came, Progress):
                        on_progress(came)
                    elif came is not None:
                        yield came
                reader.check_end()

            yield reader, batches()
        except grpc.RpcError as error:
            raise error_of(error) from None
        finally:
            call.cancel()

    async def _renders(self) -> AsyncRenders:
        return AsyncRenders(await self._connect(), self._server)

    async def _connect(self) -> grpc.aio.Channel:
        if self._closed:
            raise InputError("the client is closed; make another one")
        async with self._connecting:
            if self._channel is None:
                self._channel = await open_async_channel(self._server)
            return self._channel
