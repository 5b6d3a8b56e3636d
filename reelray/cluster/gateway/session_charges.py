"""What a session of `Videos.Converse` is charged for: its beginning, and what its client adds while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from reelray.cluster.gateway.live_quotas import Admission, LiveQuotas
from reelray.cluster.prompt_changes import read_seconds
from reelray.cluster.render import new_request_id
from reelray.cluster.stream_job import read_extension, rewind_request
from reelray.cluster.stream_session import StreamSession
from reelray.proto.v1 import converse_pb2 as wire


class SessionCharges:
    """Of one session.

    Args:
        live: Where it was let in.
        first: With what.
    """

    def __init__(self, live: LiveQuotas, first: Admission) -> None:
        self._live, self._first = live, first
        self._added: list[Admission] = []

    @contextmanager
    def order(self, stream: StreamSession, command: wire.ConverseRequest.Command) -> Iterator[Self]:
        """Charge for what a command adds; where that is refused it is given back. Not for the event loop's thread.

        Args:
            stream: Of the session.
            command: That is carried out in the block.

        Yields:
            The charges of the session that a fork begins; else its own.

        Raises:
            QuotaError: A limit is reached; nothing was taken.
            InputError: The command cannot be carried out, or its tenant may never ask for so much.
        """
        first, live = self._first, self._live
        if live.are_free(first.tenant) or not first.tenant:
            yield self if not command.HasField("fork") else type(self)(live, Admission(0))
            return
        if command.HasField("fork"):
            left = max(0, stream.frames - stream.position)
            other = live.wait_for(live.enter(first.tenant, new_request_id(), left))
            with _given_back(other):
                yield type(self)(live, other)
            return
        if not (frames := _added_frames(stream, command)):
            yield self
            return
        added = live.wait_for(live.add(first.tenant, new_request_id(), frames))
        with _given_back(added):
            yield self
        self._added.append(added)

    def charge_only(self, frames: int) -> None:
        """Give back what its beginning was charged beyond so many frames."""
        self._first.charge_only(frames)

    def leave(self, unmade: int = 0) -> None:
        """It is over; harmless when said twice.

        Args:
            unmade: Frames to give back.
        """
        for charged in (*reversed(self._added), self._first):
            back = min(unmade, charged.frames)
            charged.leave(charged.frames - back if back else None)
            unmade -= back


@contextmanager
def _given_back(admission: Admission) -> Iterator[None]:
    """Around what it was let in for."""
    try:
        yield
    except BaseException:
        admission.leave(0)
        raise


def _added_frames(stream: StreamSession, command: wire.ConverseRequest.Command) -> int:
    """Frames that are made because of a command, and would not be without it."""
    job = stream.job
    if command.HasField("extend"):
        return read_extension(job, command.extend.seconds).latent_frames * job.model.facts.temporal_stride
    if command.HasField("seek"):
        seconds, position = read_seconds(command.seek.seconds, "the time to go back to", zero=True), stream.position
        return max(0, position - rewind_request(job, seconds, before=position)[1].frame)
    return 0
