"""By when a video is wanted, as people and Python say it."""

from contextlib import suppress
from datetime import UTC, datetime, time, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from reelray.proto.errors import InputError


def read_deadline(said: object) -> datetime:
    """Read a time such as ``2026-12-24T18:00`` or ``18:30``, of this machine's zone where it names none.

    Args:
        said: Text, or a `datetime`.

    Raises:
        InputError: It is no time.
    """
    if isinstance(said, datetime):
        with suppress(ValueError, OverflowError):
            return said.astimezone()
    elif isinstance(said, str):
        with suppress(ValueError, OverflowError):
            return datetime.fromisoformat(said).astimezone()
        with suppress(ValueError, OverflowError):
            now = datetime.now().astimezone()
            found = datetime.combine(now.date(), time.fromisoformat(said)).astimezone()
            return found if found > now else found + timedelta(days=1)
    raise InputError(f"deadline is {said!r:.60}; write a time such as 2026-12-24T18:00 or 18:30")


def on_the_wire(deadline: datetime | str) -> Timestamp:
    """The same for a message; raises as `read_deadline` does."""
    stamp = Timestamp()
    stamp.FromDatetime(read_deadline(deadline).astimezone(UTC))
    return stamp
