"""Frames become the bytes that a client asked for, in messages of half a megabyte at most."""

from collections.abc import Iterator

from reelray.cluster.render import RenderJob
from reelray.cluster.render_report import file_metadata
from reelray.cluster.render_session import frames_array
from reelray.cluster.video_facts import facts_of, spec_of
from reelray.cluster.video_format import VideoFormat
from reelray.cluster.video_writer import load_pipe_writer
from reelray.proto.errors import InputError
from reelray.proto.events import Frames
from reelray.proto.v1 import video_spec_pb2 as wire
from reelray.proto.v1 import videos_pb2

LARGEST_BYTES = 500_000
"""Of a message. Twice as much takes twice the time for each byte: its buffers come fresh from the system each time."""
FORMATS = {
    wire.MEDIA_UNSPECIFIED: VideoFormat.MP4,
    wire.MEDIA_MP4: VideoFormat.MP4,
    wire.MEDIA_RGB24: VideoFormat.RAW,
}


class MediaEncoder:
    """One video on its way out. Not for several threads at once.

    Args:
        media: What the client asked for.
        job: The video.
        digest: Of the model.
        first_frame: Where it begins that goes on from another.

    Raises:
        InputError: `media` is none that this version knows.
    """

    def __init__(self, media: wire.Media, job: RenderJob, digest: str, *, first_frame: int = 0) -> None:
        if media not in FORMATS:
            raise InputError(f"media is {media}; it must be one of {', '.join(wire.Media.keys())}")
        self._pieces: list[bytes | memoryview] = []
        self._sent = 0
        facts = facts_of(job)
        spec = spec_of(facts, file_metadata(facts, digest, first_frame=first_frame), first_frame=first_frame)
        self._writer = load_pipe_writer(FORMATS[media])(_Sink(self._pieces), spec)

    def write(self, frames: Frames) -> list[videos_pb2.GenerateEvent]:
        """Encode some frames; returns what there is to send."""
        self._writer.write(frames_array(frames))
        return [_event(*part) for part in self._take()]

    def finish(self) -> list[videos_pb2.GenerateEvent]:
        """Encode what was held back; returns the last there is to send."""
        self._writer.close()
        return [_event(*part) for part in self._take()]

    def write_parts(self, frames: Frames) -> list[tuple[int, bytes]]:
        """Encode some frames; returns bytes to send, each with its place in all that was sent."""
        self._writer.write(frames_array(frames))
        return list(self._take())

    def finish_parts(self) -> list[tuple[int, bytes]]:
        """Encode what was held back; returns the last bytes as `write_parts` does."""
        self._writer.close()
        return list(self._take())

    def abandon(self) -> None:
        """Let go of the encoder; harmless at any time."""
        self._writer.abandon()

    def _take(self) -> Iterator[tuple[int, bytes]]:
        taken = memoryview(self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces))
        self._pieces.clear()
        for begin in range(0, len(taken), LARGEST_BYTES):
            part = bytes(taken[begin : begin + LARGEST_BYTES])
            yield self._sent, part
            self._sent += len(part)


def _event(offset: int, data: bytes) -> videos_pb2.GenerateEvent:
    return videos_pb2.GenerateEvent(media={"offset": offset, "data": data})


class _Sink:
    """Collects what the writer gives away; frames of the engine, which nobody changes, are not copied for that."""

    def __init__(self, into: list[bytes | memoryview]) -> None:
        self._into = into

    def write(self, data: bytes | memoryview, /) -> int:
        """See `ByteSink`."""
        view = memoryview(data)
        self._into.append(view.cast("B") if view.readonly else bytes(view))
        return view.nbytes
