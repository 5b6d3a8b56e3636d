"""Frames of one group as fragments of an MP4 that has others before and after them."""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import replace

from reelray.cluster.video_encodings import FILES
from reelray.cluster.video_format import VideoFormat
from reelray.cluster.video_writer import FramesArray, VideoSpec
from reelray.cluster.video_writer_av import AvWriter
from reelray.proto.errors import OutputError

_BOX = struct.Struct(">I4s")
_ENCODING = replace(
    FILES[VideoFormat.MP4],
    codec_options={
        "crf": "17",
        "preset": "medium",
        "profile": "high",
        # One keyframe and so one fragment in each group; nothing refers to another group. One thread: the number of
        # threads shows in the bytes. No B-frames: time stamps begin where the group does.
        "x264-params": "cpu-independent=1:sliced-threads=0:threads=1:bframes=0:keyint=infinite:scenecut=0",
    },
)
_MUXER_OPTIONS = {
    "movflags": "+frag_keyframe+empty_moov+default_base_moof+frag_discont+skip_trailer",
    "avoid_negative_ts": "disabled",
}


def encode_group(frames_FHWC: FramesArray, spec: VideoSpec, *, number: int, first_frame: int) -> tuple[bytes, bytes]:
    """Encode a group as if those before it were written already.

    Args:
        frames_FHWC: Its frames, RGB uint8, shape F, H, W, 3.
        spec: Of the whole video.
        number: Of the group, from 0.
        first_frame: Place of its first frame in the video.

    Returns:
        The head that every group has and a file has once, and the group's own fragments.
    """
    encoding = replace(_ENCODING, muxer_options={**_MUXER_OPTIONS, "fragment_index": str(number + 1)})
    sink = _Sink()
    writer = AvWriter(encoding, sink, spec, first_frame=first_frame)
    try:
        writer.write(frames_FHWC)
    except BaseException:
        writer.abandon()
        raise
    writer.close()
    data = bytes(sink.taken)
    begin = next(at for at, kind in _boxes(data) if kind == b"moof")
    return data[:begin], data[begin:]


def codec_of(head: bytes) -> str:
    """Digest of what a decoder is told at the file's beginning; groups fit together where it is the same.

    Raises:
        OutputError: There is nothing of the kind.
    """
    at = head.find(b"avcC")
    if at < 4:
        raise OutputError("the encoder wrote no H.264 header")
    (length,) = struct.unpack(">I", head[at - 4 : at])
    return hashlib.sha256(head[at : at - 4 + length]).hexdigest()


def _boxes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        length, kind = _BOX.unpack_from(data, at)
        yield at, kind
        at += length


class _Sink:
    """Collects what the writer gives away."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def write(self, data: bytes | memoryview, /) -> int:
        """See `ByteSink`."""
        self.taken += data
        return len(data)
