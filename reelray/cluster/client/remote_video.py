"""One video that a server makes: events and frames as they come."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc

from reelray.cluster.client.connection import ServerAddress, error_of
from reelray.cluster.client.notices import Notices
from reelray.cluster.client.video_reader import VideoReader
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import EngineError
from reelray.proto.events import Progress
from reelray.proto.request import RenderSummary
from reelray.proto.v1 import videos_pb2, videos_pb2_grpc


class RemoteVideo:
    """Iterate once for frames; `facts` is known from the start, `summary` at the end.

    Args:
        channel: To the server.
        server: Whose it is.
        request: What to make; asks for RGB frames.
        on_progress: Told whenever a stage moves on.
        notices: Hears how it waits.

    Raises:
        ReelrayError: The server refused, or was lost.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        server: ServerAddress,
        request: videos_pb2.GenerateRequest,
        on_progress: Callable[[Progress], None],
        notices: Notices | None = None,
    ) -> None:
        stub = videos_pb2_grpc.VideosStub(channel)  # type: ignore[no-untyped-call]
        self._call: Any = stub.Generate(request, metadata=server.metadata)
        self._on_progress, self._notices = on_progress, notices or Notices()
        try:
            self._reader = VideoReader(self._next())
        except EngineError:
            self._call.cancel()
            raise
        self.facts, self.digest = self._reader.facts, self._reader.digest

    @property
    def summary(self) -> RenderSummary | None:
        """What it took; None before the end."""
        return self._reader.summary

    def __iter__(self) -> Iterator[FramesArray]:
        """Yield batches of RGB frames, uint8, shape F, H, W, 3.

        Raises:
            ReelrayError: The server failed or was lost, or sent something else.
        """
        while (event := self._next()) is not None:
            if event.HasField("queued"):
                self._notices.queued(event.queued)
            came = self._reader.take(event)
            if isinstance(came, Progress):
                self._on_progress(came)
            elif came is not None:
                yield came
        self._reader.check_end()

    def close(self) -> None:
        """Stop the server if it still works on this; harmless otherwise."""
        self._call.cancel()

    def _next(self) -> videos_pb2.GenerateEvent | None:
        try:
            event: videos_pb2.GenerateEvent | None = next(self._call, None)
        except grpc.RpcError as error:
            raise error_of(error) from None
        return event
