"""One video that a server makes: events and frames as they come."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np

from reelray.cluster.client.answers import read_plan, read_progress, read_summary
from reelray.cluster.client.connection import ServerAddress, error_of
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import EngineError
from reelray.proto.events import Progress
from reelray.proto.request import RenderSummary, RequestId
from reelray.proto.v1 import video_spec_pb2 as wire
from reelray.proto.v1 import videos_pb2, videos_pb2_grpc


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
        request: videos_pb2.GenerateRequest,
        on_progress: Callable[[Progress], None],
    ) -> None:
        stub = videos_pb2_grpc.VideosStub(channel)  # type: ignore[no-untyped-call]
        self._call: Any = stub.Generate(request, metadata=server.metadata)
        self._on_progress = on_progress
        self.summary: RenderSummary | None = None
        first = self._next()
        accepted = videos_pb2.GenerateEvent.Accepted() if first is None else first.accepted
        self._request_id, self._plan = RequestId(accepted.request_id), accepted.plan
        try:
            self.facts = read_plan(self._plan)
        except EngineError:
            self._call.cancel()
            raise
        self.digest = self._plan.model_digest

    def __iter__(self) -> Iterator[FramesArray]:
        """Yield batches of RGB frames, uint8, shape F, H, W, 3.

        Raises:
            ReelrayError: The server failed or was lost, or sent something else.
        """
        pixels, expected = bytearray(), 0
        size = self.facts.width * self.facts.height * 3
        while (event := self._next()) is not None:
            kind = event.WhichOneof("event")
            if kind == "progress":
                self._tell(event.progress)
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

    def _next(self) -> videos_pb2.GenerateEvent | None:
        try:
            event: videos_pb2.GenerateEvent | None = next(self._call, None)
        except grpc.RpcError as error:
            raise error_of(error) from None
        return event

    def _frames(self, data: bytes, count: int) -> FramesArray:
        return np.frombuffer(data, np.uint8).reshape(count, self.facts.height, self.facts.width, 3)

    def _tell(self, said: wire.StageProgress) -> None:
        progress = read_progress(said, self._request_id)
        if progress is not None:
            self._on_progress(progress)

    def _finish(self, done: wire.VideoSummary, frames: int) -> None:
        if frames != self.facts.frames:
            raise EngineError(f"the server sent {max(frames, 0)} whole frames of {self.facts.frames}")
        self.summary = read_summary(done, self._plan, self._request_id)
