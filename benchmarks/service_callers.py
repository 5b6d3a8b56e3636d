"""Callers of a gateway, each in a process of its own, for `benchmarks.service`."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import grpc

from benchmarks.service_gateway import TENANTS
from reelray.cluster.wire import LARGEST_MESSAGE
from reelray.proto.v1 import (
    renders_pb2,
    renders_pb2_grpc,
    request_options_pb2,
    video_spec_pb2,
    videos_pb2,
    videos_pb2_grpc,
)

PROMPT = "a red circle moves left on a blue background, slowly, in the light of the evening " * 4
# A pool of its own lets each channel have a connection of its own.
OPTIONS = (("grpc.max_receive_message_length", LARGEST_MESSAGE), ("grpc.use_local_subchannel_pool", 1))
ENDLESS_FRAMES = 100_001
Metadata = tuple[tuple[str, str], ...]
Stub = Any


def metadata(number: int = 0) -> Metadata:
    """The token of a tenant."""
    return (("authorization", f"Bearer {list(TENANTS)[number % len(TENANTS)]}"),)


def submission(key: str) -> renders_pb2.SubmitRenderRequest:
    """A wish under a client's key."""
    return renders_pb2.SubmitRenderRequest(
        video=video_spec_pb2.VideoSpec(prompt=PROMPT), options=request_options_pb2.RequestOptions(idempotency_key=key)
    )


def generation(number: int = 0, width: int = 832, height: int = 480) -> videos_pb2.GenerateRequest:
    """A video of frames as they are, without end, of a model that makes no other."""
    size = video_spec_pb2.Size(width=width, height=height)
    video = video_spec_pb2.VideoSpec(model=f"nothing-{number}", prompt=PROMPT, frames=ENDLESS_FRAMES, size=size)
    return videos_pb2.GenerateRequest(video=video, media=video_spec_pb2.MEDIA_RGB24)


async def with_channels(address: str, count: int, work: Callable[[Sequence[Any]], Awaitable[Any]]) -> Any:
    """Do something with some channels, each a connection."""
    async with AsyncExitStack() as opened:
        channels = [await opened.enter_async_context(grpc.aio.insecure_channel(address, OPTIONS)) for _ in range(count)]
        for channel in channels:
            await channel.channel_ready()
        return await work(channels)


def submit(address: str, name: str, channels: int, in_flight: int, seconds: float) -> list[float]:
    """Submit without pause; milliseconds of each call that ended in time."""
    took, count = list[float](), iter(range(10**9))

    async def go_on(number: int, opened: Sequence[Any], until: float) -> None:
        call, token = renders(opened[number % channels]).Submit, metadata(number)
        while (start := time.perf_counter()) < until:
            await call(submission(f"{name} {next(count)}"), metadata=token)
            took.append((time.perf_counter() - start) * 1e3)

    async def work(opened: Sequence[Any]) -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(*(go_on(number, opened, until) for number in range(in_flight)))

    asyncio.run(with_channels(address, channels, work))
    return took


def read_frames(address: str, seconds: float) -> float:
    """Bytes per second of one video."""
    with grpc.insecure_channel(address, OPTIONS) as channel:
        call = videos(channel).Generate(generation(), metadata=metadata())
        return _rate(call, seconds, lambda event: len(event.media.data))


def read_file(address: str, render_id: str, seconds: float) -> float:
    """Bytes per second of one file, again and again."""
    request = renders_pb2.DownloadRenderRequest(id=render_id)
    with grpc.insecure_channel(address, OPTIONS) as channel:
        stub = renders(channel)
        chunks = (chunk for _ in iter(int, 1) for chunk in stub.Download(request, metadata=metadata()))
        return _rate(chunks, seconds, lambda chunk: len(chunk.data))


def _rate(messages: Any, seconds: float, size: Callable[[Any], int]) -> float:
    total, start = 0, 0.0
    for message in messages:
        found = size(message)
        if not found:
            continue
        total, start = total + found, start or time.perf_counter()
        if time.perf_counter() - start > seconds:
            break
    return total / (time.perf_counter() - start)


def stream(address: str, count: int, channels: int, seconds: float) -> list[list[float]]:
    """Many videos at once: of each, when its batches came, from when all had begun."""
    came: list[list[float]] = [[] for _ in range(count)]

    async def follow(number: int, opened: Sequence[Any], begun: asyncio.Barrier) -> None:
        call = videos(opened[number % channels]).Generate(generation(number, 96, 64), metadata=metadata(number))
        async for event in call:
            if event.HasField("accepted"):
                break
        await begun.wait()
        until = time.perf_counter() + seconds
        async for event in call:
            if (now := time.perf_counter()) > until:
                break
            if event.HasField("media"):
                came[number].append(now - until + seconds)
        call.cancel()

    async def work(opened: Sequence[Any]) -> None:
        begun = asyncio.Barrier(count)
        await asyncio.gather(*(follow(number, opened, begun) for number in range(count)))

    asyncio.run(with_channels(address, channels, work))
    return came


def watch(address: str, ids: Sequence[str], count: int, channels: int, events: int) -> list[list[float]]:
    """Many watchers of some renders: of each, the milliseconds from when its events happened to when they came.

    What happened before all of them watched is left out.
    """
    took: list[list[float]] = [[] for _ in range(count)]

    async def follow(number: int, opened: Sequence[Any], begun: list[float]) -> None:
        call = renders(opened[number % channels]).Watch(
            renders_pb2.WatchRenderRequest(id=ids[number % len(ids)]), metadata=metadata()
        )
        async for event in call:
            now, at = time.time(), event.at.ToNanoseconds() / 1e9
            if event.number == 1:
                begun.append(now)
            elif event.HasField("progress") and len(begun) == count and at > begun[-1]:
                took[number].append((now - at) * 1e3)
            if event.progress.done == events:
                return

    async def work(opened: Sequence[Any]) -> None:
        begun: list[float] = []
        await asyncio.gather(*(follow(number, opened, begun) for number in range(count)))

    asyncio.run(with_channels(address, channels, work))
    return took


def stall(address: str, count: int, seconds: float) -> tuple[list[int], float]:
    """Begin videos, read one message of frames of each, and leave after some time: bytes that were read, and when."""
    with grpc.insecure_channel(address, OPTIONS) as channel:
        calls = [videos(channel).Generate(generation(number), metadata=metadata()) for number in range(count)]
        read = [next(len(event.media.data) for event in call if event.HasField("media")) for call in calls]
        time.sleep(seconds)
        left_at = time.monotonic()
        for call in calls:
            call.cancel()
    return read, left_at


def cancel(address: str, count: int, pause_s: float) -> dict[str, float]:
    """Begin videos one after another and cancel each; when that was, by `time.monotonic`."""
    cancelled = {}
    with grpc.insecure_channel(address, OPTIONS) as channel:
        for _ in range(count):
            call = videos(channel).Generate(generation(), metadata=metadata())
            name = next(event.accepted.request_id for event in call if event.HasField("accepted"))
            next(event for event in call if event.HasField("progress"))
            time.sleep(pause_s)
            cancelled[name] = time.monotonic()
            call.cancel()
    return cancelled


def renders(channel: Any) -> Stub:
    """Its stub, which has no types."""
    make: Any = renders_pb2_grpc.RendersStub
    return make(channel)


def videos(channel: Any) -> Stub:
    """Its stub, which has no types."""
    make: Any = videos_pb2_grpc.VideosStub
    return make(channel)
