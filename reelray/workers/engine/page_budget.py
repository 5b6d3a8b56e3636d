"""How the memory of a device is divided: so much for pages, so much for decoders, the rest for whatever runs."""

from collections.abc import Callable
from dataclasses import dataclass

from reelray.proto.errors import ResourceError
from reelray.workers.engine.footprint import Footprint, ShapeClass

MARGIN = 0.03
"""Part of the free memory that is left alone: an allocator cannot use every byte."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What the pages of streams of a class take.

    Args:
        own_bytes: Of every one.
        shared_bytes: Of all of them: the workspace.
    """

    own_bytes: int
    shared_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PageBudget:
    """A division made for streams of one class; others must be content with it as long as there are any.

    Args:
        shape: The class.
        footprint: What was measured.
        page_bytes: For pages and workspaces.
        streams: How many streams of the class may be awake; all ranks of a lane have the same number.
    """

    shape: ShapeClass
    footprint: Footprint
    page_bytes: int
    streams: int

    @classmethod
    def divide(
        cls, free: int, shape: ShapeClass, footprint: Footprint, need: Need, least: Callable[[int], int]
    ) -> "PageBudget":
        """Give pages what is left when as many decoders go on as there are streams that pages can be promised to.

        Args:
            free: Bytes that can be had.
            shape: The class.
            footprint: What was measured for it.
            need: What its pages take.
            least: Of a number that each rank of the lane gives, the least.
        """
        rest = int(free * (1 - MARGIN)) - footprint.peak_bytes
        streams = (rest - need.shared_bytes) // max(1, need.own_bytes + footprint.stream_bytes)
        streams = least(max(1, streams))
        pages = least(max(0, rest - streams * footprint.stream_bytes))
        return cls(shape=shape, footprint=footprint, page_bytes=pages, streams=streams)

    def check(self, shape: ShapeClass, others: list[ShapeClass]) -> None:
        """Refuse a stream for which nothing was kept beside the pages.

        Args:
            shape: Its class.
            others: Those of the streams that are awake.

        Raises:
            ResourceError: Its windows, pieces or decoder are larger, or its decoder would be one too many.
        """
        mine = self.shape
        if not shape.needs_no_more_than(mine):
            raise ResourceError(
                f"streams of {mine.width}x{mine.height} with windows of {mine.window} latent frames are here, decoded "
                f"by {mine.decoder}, and {self.footprint.peak_bytes} bytes are kept for what they compute; "
                f"{shape.width}x{shape.height} with {shape.window} takes more, decoded by {shape.decoder}, so it has "
                "to wait until they are over"
            )
        whole, taken = self.streams * mine.area, sum(other.area for other in others)
        if taken + shape.area > whole:
            each = self.footprint.stream_bytes
            raise ResourceError(
                f"the decoder of this video keeps {each * shape.area // mine.area} bytes; "
                f"{each * (whole - taken) // mine.area} of {each * self.streams} are not promised to other videos"
            )
