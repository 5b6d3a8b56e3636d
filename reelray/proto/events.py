"""What an engine tells about a running request, in order."""

from dataclasses import dataclass
from enum import StrEnum

from reelray.proto.request import RenderSummary, RequestId


class Stage(StrEnum):
    """Where a request is, or what its time went into."""

    LOAD = "load"
    TEXT = "text"
    DENOISE = "denoise"
    REMEMBER = "remember"  # forwards whose prediction is not used: clean passes, and frames remembered anew
    DECODE = "decode"
    REGROUP = "regroup"


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A stage moved on.

    Args:
        request_id: The request.
        stage: The stage that moved.
        done: Finished units: denoise steps over all chunks, or pixel frames decoded.
        total: Units in this stage.
    """

    request_id: RequestId
    stage: Stage
    done: int
    total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Frames:
    """Decoded frames.

    Args:
        request_id: The request.
        first_frame: Index of the first frame in the clip.
        count: Frames in `data`.
        height: Pixels.
        width: Pixels.
        data: RGB uint8, (count, height, width, 3), C order.
    """

    request_id: RequestId
    first_frame: int
    count: int
    height: int
    width: int
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """The request is complete; nothing follows."""

    request_id: RequestId
    summary: RenderSummary


Event = Progress | Frames | Done
