"""What the ledger says of a commit unit: where its files lie, and how far the video was."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from reelray.cluster.plain_json import from_plain, to_plain
from reelray.cluster.renders.artifact import Artifact
from reelray.cluster.renders.growing_video import VideoPlace
from reelray.proto.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitRecord:
    """A durable unit.

    Args:
        steps: Denoise steps done.
        video: How far the video was.
        snapshot: From which an engine goes on.
        segment: Bytes of the video since the unit before; None where there are none.
        tail: Frames that wait for their group; None where there are none.
    """

    steps: int
    video: VideoPlace
    snapshot: Artifact
    segment: Artifact | None = None
    tail: Artifact | None = None

    def to_json(self) -> dict[str, Any]:
        """What the ledger keeps."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read it.

        Raises:
            InputError: Another build wrote it.
        """
        try:
            return from_plain(cls, value)
        except (ValueError, TypeError) as error:
            told = " ".join(str(error).split())
            raise InputError(f"a commit of the job was written by another build of reelray: {told}") from None
