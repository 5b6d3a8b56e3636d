"""A video as it grows: whole groups are encoded, frames of the one in work wait as they are.

Shape legend: F pixel frames, H/W pixel height/width.
"""

import zlib
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from reelray.cluster.render import RenderJob
from reelray.cluster.render_report import file_metadata
from reelray.cluster.renders.group_encoding import codec_of, encode_group
from reelray.cluster.renders.groups import cut_groups
from reelray.cluster.video_facts import facts_of, spec_of
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import OutputError


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoPlace:
    """How far a video has grown.

    Args:
        frames: Pixel frames taken in.
        groups: Groups encoded.
        size_bytes: Of those.
        codec: What groups must have in common; empty before the first.
    """

    frames: int = 0
    groups: int = 0
    size_bytes: int = 0
    codec: str = ""


class GrowingVideo:
    """The bytes of one job's video. Not for several threads at once.

    Args:
        job: What is made.
        digest: Of the model.
        place: Where it goes on.
        tail: What `tail` gave there.

    Raises:
        OutputError: The tail belongs to another place.
    """

    def __init__(self, job: RenderJob, digest: str, place: VideoPlace | None = None, tail: bytes = b"") -> None:
        facts = facts_of(job)
        self.model, self.fps = job.model.name, job.fps
        self._spec = spec_of(facts, file_metadata(facts, digest))
        self._ends = cut_groups(job.request, job.model.facts)
        place = place or VideoPlace()
        self._groups, self._size_bytes, self._codec = place.groups, place.size_bytes, place.codec
        self._waiting_FHWC = self._read_tail(tail)
        self._fresh = bytearray()
        if self.place != place:
            raise OutputError(f"a video of {place.frames} frames was put down with {self.place.frames}")

    @classmethod
    def without_tail(cls, job: RenderJob, digest: str, place: VideoPlace) -> Self:
        """A video that goes on after the last whole group before a place."""
        begin = cut_groups(job.request, job.model.facts)[place.groups - 1] if place.groups else 0
        return cls(job, digest, replace(place, frames=begin))

    @property
    def place(self) -> VideoPlace:
        """How far it is, with what was not taken yet."""
        frames = self._group_begin + len(self._waiting_FHWC)
        return VideoPlace(frames=frames, groups=self._groups, size_bytes=self._size_bytes, codec=self._codec)

    @property
    def tail(self) -> bytes:
        """The frames that wait for their group; empty where there are none."""
        return zlib.compress(self._waiting_FHWC.tobytes(), 1) if len(self._waiting_FHWC) else b""

    def write(self, frames_FHWC: FramesArray) -> None:
        """Take in the next frames, RGB uint8, shape F, H, W, 3.

        Raises:
            OutputError: Another version of the encoder made what is before them.
        """
        frames_FHWC = np.concatenate([self._waiting_FHWC, frames_FHWC])
        while self._groups < len(self._ends) and len(frames_FHWC) >= (length := self._group_frames):
            self._encode(frames_FHWC[:length])
            frames_FHWC = frames_FHWC[length:]
        self._waiting_FHWC = np.array(frames_FHWC)

    def take(self) -> bytes:
        """The bytes since the last call."""
        fresh = bytes(self._fresh)
        self._fresh.clear()
        return fresh

    @property
    def _group_begin(self) -> int:
        return self._ends[self._groups - 1] if self._groups else 0

    @property
    def _group_frames(self) -> int:
        return self._ends[self._groups] - self._group_begin

    def _encode(self, group_FHWC: FramesArray) -> None:
        head, fragments = encode_group(group_FHWC, self._spec, number=self._groups, first_frame=self._group_begin)
        codec = codec_of(head)
        if self._codec not in {"", codec}:
            raise OutputError("the video was begun by another version of the encoder; submit it again")
        added = fragments if self._groups else head + fragments
        self._fresh += added
        self._size_bytes += len(added)
        self._groups, self._codec = self._groups + 1, codec

    def _read_tail(self, tail: bytes) -> FramesArray:
        shape = (-1, self._spec.height, self._spec.width, 3)
        try:
            return np.frombuffer(zlib.decompress(tail) if tail else b"", np.uint8).reshape(shape)
        except (zlib.error, ValueError):
            raise OutputError("the frames that were put down with the video cannot be read") from None
