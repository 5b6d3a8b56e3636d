"""Forks: a second rollout that goes on from where the first one is."""

from collections.abc import Sequence
from copy import copy

from reelray.proto.errors import ReelrayError
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.session import Forked
from reelray.scheduler.rollout import Phase, Rollout


class Forking:
    """The fork of one request in the making; crews carry it out in plans that were formed together.

    Args:
        rollout: Of the request.
        name: Of the other one.
        crews: How many.
    """

    def __init__(self, rollout: Rollout, name: RequestId, crews: int) -> None:
        self._rollout, self.name = rollout, name
        self._other: Rollout | None = None
        self._pieces = (0, 0)
        self._crews = self._missing = crews
        self._error: ReelrayError | None = None
        rollout.fork = name

    def begin_anew(self) -> None:
        """Have the crews do it again; those that are gone did it for nothing."""
        self._missing, self._error, self._other = self._crews, None, None
        self._rollout.fork = self.name

    def take(
        self, request: RenderRequest, failed: Sequence[ReelrayError], *, denoised: bool, decoded: bool
    ) -> tuple[Rollout, Forked] | None:
        """Take in what a crew reports of its plan; returns the other rollout when all have.

        Args:
            request: The other one, as the plan said.
            failed: Why it failed there, if it did.
            denoised: Whether it is the crew that denoises.
            decoded: Whether it is the one that decodes.
        """
        rollout, self._missing = self._rollout, self._missing - 1
        self._error = self._error or next(iter(failed), None)
        if denoised:
            self._other = split(rollout, request)
        if decoded:
            self._pieces = rollout.pieces_done, rollout.pieces_sent
        if self._missing or self._other is None:
            return None
        other, source = self._other, rollout.request.request_id
        other.pieces_done, other.pieces_sent = self._pieces
        other.paused = rollout.paused
        return other, Forked(source=source, request=other.request, frame=other.frames_sent, error=self._error)


def split(rollout: Rollout, request: RenderRequest) -> Rollout:
    """Another rollout that goes on from where one is, on the same ranks.

    Args:
        rollout: The one.
        request: Of the other one: the same by another name.
    """
    other = copy(rollout)
    other.follow(request)
    other.window_turn = other.decode_turn = -1
    other.put_down = other.fork = None
    other.is_late = False
    other.phase, other.losses, other.suspect, other.cramped = Phase.RUNNING, 0, False, {*rollout.cramped}
    other.unacknowledged_frames = 0
    return other
