"""What people hear who wait: how they stand, and that a line broke."""

from collections.abc import Callable

from reelray.cluster.client.kept_render import Standing, read_standing
from reelray.proto.errors import ReelrayError
from reelray.proto.v1 import video_spec_pb2 as wire

Tell = Callable[[str], None]


def nobody(_line: str) -> None:
    """Tell nobody."""


def describe_standing(waits: Standing) -> str:
    """How something waits."""
    start = "" if waits.start is None else f", begins about {waits.start.astimezone():%H:%M:%S}"
    return f"waits as number {waits.position} of its model{start}"


class Notices:
    """Says each thing once; one thread at a time.

    Args:
        tell: Takes lines.
        what: Waits, such as "the video".
    """

    def __init__(self, tell: Tell = nobody, what: str = "the video") -> None:
        self._tell, self._what = tell, what
        self._position, self._is_broken = 0, False

    def queued(self, queued: wire.Queued) -> None:
        """It waits for an engine."""
        if queued.position == self._position:
            return
        self._position = queued.position
        self._tell(f"{self._what} {describe_standing(read_standing(queued))}")

    def broke(self, error: ReelrayError, limit_s: float) -> None:
        """The line broke, and is tried again for so long."""
        if not self._is_broken:
            self._is_broken = True
            self._tell(f"{error.message}; trying again for up to {limit_s:g} s")

    def mended(self) -> None:
        """The server answers."""
        if self._is_broken:
            self._is_broken = False
            self._tell("the server answers again; going on")
