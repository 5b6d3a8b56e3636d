"""What a server sends of a video, read: nothing here waits."""

import numpy as np

from reelray.cluster.client.answers import read_plan, read_progress, read_summary
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import EngineError
from reelray.proto.events import Progress
from reelray.proto.request import RenderSummary, RequestId
from reelray.proto.v1 import video_spec_pb2 as wire
from reelray.proto.v1 import videos_pb2


class VideoReader:
    """Takes in the events of one video; `facts` are known from the start, `summary` at the end.

    Args:
        first: The first event; None where there was none.

    Raises:
        EngineError: It does not say what is made.
    """

    def __init__(self, first: videos_pb2.GenerateEvent | None) -> None:
        accepted = videos_pb2.GenerateEvent.Accepted() if first is None else first.accepted
        self._request_id, self._plan = RequestId(accepted.request_id), accepted.plan
        self.facts = read_plan(self._plan)
        self.digest = self._plan.model_digest
        self.summary: RenderSummary | None = None
        self._size = self.facts.width * self.facts.height * 3
        self._pixels, self._expected = bytearray(), 0

    def take(self, event: videos_pb2.GenerateEvent) -> FramesArray | Progress | None:
        """What came with an event: RGB frames, uint8, shape F, H, W, 3, or how far it is, or nothing yet.

        Raises:
            EngineError: It was not due.
        """
        kind = event.WhichOneof("event")
        if kind == "progress":
            return read_progress(event.progress, self._request_id)
        if kind == "media":
            return self._take_media(event.media)
        if kind == "done":
            self._finish(event.done)
        return None

    def check_end(self) -> None:
        """Refuse an end that is none.

        Raises:
            EngineError: There is no summary.
        """
        if self.summary is None:
            raise EngineError("the server ended the video before it was complete")

    def _take_media(self, media: videos_pb2.GenerateEvent.MediaChunk) -> FramesArray | None:
        if media.offset != self._expected:
            raise EngineError(f"the server sent byte {media.offset}; byte {self._expected} was due")
        self._expected += len(media.data)
        self._pixels += media.data
        count = len(self._pixels) // self._size
        if not count:
            return None
        data = bytes(self._pixels[: count * self._size])
        del self._pixels[: count * self._size]
        return np.frombuffer(data, np.uint8).reshape(count, self.facts.height, self.facts.width, 3)

    def _finish(self, done: wire.VideoSummary) -> None:
        frames = 0 if self._pixels else self._expected // self._size
        if frames != self.facts.frames:
            raise EngineError(f"the server sent {frames} whole frames of {self.facts.frames}")
        self.summary = read_summary(done, self._plan, self._request_id)
