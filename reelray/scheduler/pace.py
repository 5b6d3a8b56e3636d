"""Whose turn it is where some sessions play while they are made: whoever's next frame is due first."""

from collections import Counter
from collections.abc import Mapping, Sequence

from reelray.proto.request import RequestId
from reelray.scheduler.rollout import Rollout

CHUNKS_AHEAD = 2
"""Chunks of playback that a session with a pace has before others: one that another has just begun, and its own."""
LATE_S = 1.0
"""A playback that is later than this has stopped, and goes on from what comes next: it is not to catch up."""
GUARD = 4
"""Every so many turns go to whoever has waited longest, paced or not."""


class Paces:
    """The playbacks of sessions that say how fast they play.

    A playback begins when its first frames are sent. Before that it is due since it was first seen, so that a newcomer
    is not late. The turns are those of a lane: until a chunk is over where streams keep them, else a window's.
    """

    def __init__(self) -> None:
        self._since: dict[RequestId, float] = {}  # of playbacks that have begun, or will
        self._plays: set[RequestId] = set()
        self._known: dict[RequestId, float] = {}  # the paces by which `_since` was found
        self._choices: Counter[int] = Counter()  # by lane

    def follow(self, rollouts: Mapping[RequestId, Rollout], now_s: float) -> None:
        """Note which playbacks have begun or stopped, and forget those of sessions that have gone.

        Args:
            rollouts: All requests.
            now_s: Seconds on the caller's clock.
        """
        paced = {name: one for name, one in rollouts.items() if one.request.pace_fps is not None}
        for name in (name for name, one in paced.items() if name not in self._since and one.frames_sent):
            self._plays.add(name)  # it goes on from another: what that one has shown counts as shown
            self._since[name] = now_s - paced[name].frames_sent / _pace(paced[name])
        self._since = {name: self._since.get(name, now_s) + self._shift_s(one) for name, one in paced.items()}
        self._known = {name: _pace(one) for name, one in paced.items()}
        begun = {name for name, one in paced.items() if one.frames_sent}
        self._since |= dict.fromkeys(begun - self._plays, now_s)
        self._plays = begun
        for name in begun:
            late_s = now_s - self.due_s(paced[name])
            if late_s > LATE_S:
                self._since[name] += late_s

    def _shift_s(self, rollout: Rollout) -> float:
        """By how much a playback has begun later now that its pace is another: its next frame is due when it was."""
        sent, pace = rollout.frames_sent, _pace(rollout)
        return sent / self._known.get(rollout.request.request_id, pace) - sent / pace

    def due_s(self, rollout: Rollout) -> float:
        """When the next frame of a session with a pace is to be shown, on the caller's clock."""
        return self._since[rollout.request.request_id] + rollout.frames_sent / _pace(rollout)

    def order(self, waiting: Sequence[Rollout], now_s: float, lane: int) -> list[Rollout]:
        """Who goes first.

        Those whose playback would run dry before long come first, by when their next frame is due; then those without a
        pace; then the others with one. But every so many times all come in the order in which they have waited, so that
        sessions that the device cannot keep up with leave something to the others.

        Args:
            waiting: Whoever has waited longest first.
            now_s: Seconds on the caller's clock.
            lane: For which lane.
        """
        self._choices[lane] += 1
        paced = sorted((one for one in waiting if one.request.pace_fps is not None), key=self.due_s)
        if not paced or self._choices[lane] % GUARD == 0:
            return list(waiting)
        urgent = [one for one in paced if self.due_s(one) - now_s < _lead_s(one)]
        free = [one for one in waiting if one.request.pace_fps is None]
        return [*urgent, *free, *(one for one in paced if one not in urgent)]


def _lead_s(rollout: Rollout) -> float:
    """Playback that a session is to have before others go first."""
    assert rollout.request.pace_fps is not None
    chunk = rollout.chunks[min(1, len(rollout.chunks) - 1)]
    return CHUNKS_AHEAD * chunk.length * rollout.facts.temporal_stride / rollout.request.pace_fps


def _pace(rollout: Rollout) -> float:
    pace_fps = rollout.request.pace_fps
    assert pace_fps is not None
    return pace_fps
