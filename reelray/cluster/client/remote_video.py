"""One video that a server makes: events and frames as they come."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import numpy as np

from reelray.cluster.client.connection import ServerAddress, error_of
from reelray.cluster.client.requests import read_accepted
from reelray.cluster.video_writer import FramesArray
from reelray.cluster.wire import FROM_WIRE
from reelray.proto.errors import EngineError, InputError
from reelray.proto.events import Progress
from reelray.proto.layout import Layout
from reelray.proto.request import RenderSummary, RequestId
from reelray.proto.residency import Blocks, Encoder, Residency
from reelray.proto.v1 import videos_pb2 as wire
from reelray.proto.v1 import videos_pb2_grpc


class RemoteVideo:
    """Iterate once for frames; `facts` is known from the start, `summary` at the end.

    Args:
        channel: To the server.
        server: Whose it is.
        request: What to make; asks for RGB frames.
        on_progress: Told whenever a stage moves on.

    Raises:
        ReelrayError: The server refused, or was lost.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        server: ServerAddress,
        request: wire.GenerateRequest,
        on_progress: Callable[[Progress], None],
    ) -> None:
        stub = videos_pb2_grpc.VideosStub(channel)  # type: ignore[no-untyped-call]
        self._call: Any = stub.Generate(request, metadata=server.metadata)
        self._on_progress = on_progress
        self.summary: RenderSummary | None = None
        first = self._next()
        if first is None or not (
            first.accepted.size.width * first.accepted.size.height * first.accepted.fps.denominator
        ):
            self._call.cancel()
            raise EngineError("the server did not say what it makes; is it another version?")
        self._accepted = first.accepted
        self.facts = read_accepted(first.accepted)
        self.digest = first.accepted.model_digest

    def __iter__(self) -> Iterator[FramesArray]:
        """Yield batches of RGB frames, uint8, shape F, H, W, 3.

        Raises:
            ReelrayError: The server failed or was lost, or sent something else.
        """
        pixels, expected = bytearray(), 0
        size = self.facts.width * self.facts.height * 3
        while (event := self._next()) is not None:
            kind = event.WhichOneof("event")
            if kind == "progress" and event.progress.stage in FROM_WIRE:
                self._on_progress(self._progress(event.progress))
            elif kind == "media":
                if event.media.offset != expected:
                    raise EngineError(f"the server sent byte {event.media.offset}; byte {expected} was due")
                expected += len(event.media.data)
                pixels += event.media.data
                if count := len(pixels) // size:
                    yield self._frames(bytes(pixels[: count * size]), count)
                    del pixels[: count * size]
            elif kind == "done":
                self._finish(event.done, expected // size if not pixels else -1)
        if self.summary is None:
            raise EngineError("the server ended the video before it was complete")

    def close(self) -> None:
        """Stop the server if it still works on this; harmless otherwise."""
        self._call.cancel()

    def _next(self) -> wire.GenerateEvent | None:
        try:
            event: wire.GenerateEvent | None = next(self._call, None)
        except grpc.RpcError as error:
            raise error_of(error) from None
        return event

    def _frames(self, data: bytes, count: int) -> FramesArray:
        return np.frombuffer(data, np.uint8).reshape(count, self.facts.height, self.facts.width, 3)

    def _progress(self, progress: wire.Progress) -> Progress:
        return Progress(
            request_id=RequestId(self._accepted.request_id),
            stage=FROM_WIRE[progress.stage],
            done=progress.done,
            total=progress.total,
        )

    def _finish(self, done: wire.Done, frames: int) -> None:
        if frames != self.facts.frames:
            raise EngineError(f"the server sent {max(frames, 0)} whole frames of {self.facts.frames}")
        self.summary = RenderSummary(
            request_id=RequestId(self._accepted.request_id),
            model=self.facts.model,
            model_digest=self.digest,
            frames=done.frames,
            width=self.facts.width,
            height=self.facts.height,
            seed=self.facts.seed,
            steps=self.facts.steps,
            forwards=done.forwards,
            device=done.device,
            dtype=done.dtype,
            stage_s=dict(done.stage_seconds),
            peak_bytes=done.peak_bytes,
            layout=_read_layout(done.layout),
            residency=_read_residency(done),
            decode_ranks=done.decode_ranks,
        )


def _read_layout(text: str) -> Layout:
    """The layout, or none where the server is newer and knows others."""
    with suppress(InputError):
        return Layout.parse(text)
    return Layout()


def _read_residency(done: wire.Done) -> Residency:
    with suppress(ValueError):
        return Residency(blocks=Blocks(done.weights), encoder=Encoder(done.encoder))
    return Residency()
