"""Marks that streams leave on their way: copies in host memory, from which a stream that goes back goes on.

A mark is a fork that rests and never runs. A stream that goes back to the beginning of a chunk begins as a fork of the
newest mark before it, and makes again what lies between; without a mark, or where the ranks do not have it any more,
it makes all of it again. The frames are the same.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.step_plan import ForkStep, StepPlan, WindowStep
from reelray.scheduler.forking import split
from reelray.scheduler.limits import EngineLimits
from reelray.scheduler.rollout import ENDED, Phase, Rollout
from reelray.scheduler.saved import Saved


class Marks:
    """The marks of all streams.

    Args:
        limits: How often they are left, and how many are kept.
    """

    def __init__(self, limits: EngineLimits) -> None:
        self._limits = limits
        self._marks: dict[RequestId, list[Rollout]] = {}

    def pick(self, rollouts: Mapping[RequestId, Rollout], windows: Iterable[WindowStep]) -> tuple[ForkStep, ...]:
        """Marks that are left once windows are moved."""
        every = self._limits.mark_chunks
        if every is None:
            return ()
        steps = []
        for window in windows:
            rollout = rollouts[window.request_id]
            if (window.chunk + 1) % every == 0 and _leaves_marks(rollout.request) and rollout.ends_chunk:
                name = RequestId(f"{window.request_id}@{rollout.windows_done + 1}")
                request = replace(rollout.request, request_id=name)
                steps.append(ForkStep(source=window.request_id, request=request, rests=True))
        return tuple(steps)

    def note(
        self, plan: StepPlan, failures: Collection[RequestId], rollouts: Mapping[RequestId, Rollout]
    ) -> Sequence[RequestId]:
        """Keep the marks that a plan has left, and begin anew what was to begin from one that the ranks do not have.

        Args:
            plan: That was carried out.
            failures: Requests that failed in it, and marks for which there was no memory.
            rollouts: Of all requests.

        Returns:
            What the ranks are to forget.
        """
        gone: list[RequestId] = []
        for fork in filter(lambda fork: fork.rests, plan.forks):
            name, rollout = fork.request.request_id, rollouts.get(fork.source)
            if name in failures or rollout is None or rollout.phase in ENDED:
                gone.append(name)
            else:
                gone += self._add(rollout, fork)
        for name in (admit.request.request_id for admit in plan.admits if admit.like is not None):
            if name in failures and name in rollouts and rollouts[name].phase not in ENDED:
                rollouts[name].saved = Saved()
                rollouts[name].rewind()
                gone.append(name)
        return gone

    def _add(self, rollout: Rollout, step: ForkStep) -> Sequence[RequestId]:
        """Note a mark that a stream has left; returns those that are given up for it."""
        marks = self._marks.setdefault(step.source, [])
        marks.append(split(rollout, step.request))
        gone, self._marks[step.source] = marks[: -self._limits.marks], marks[-self._limits.marks :]
        return _names(gone)

    def go_back(self, rollout: Rollout, request: RenderRequest, chunk: int) -> Rollout:
        """A rollout that goes on at the beginning of a chunk; it has the marks before that.

        Args:
            rollout: Of the stream that goes back.
            request: By what was said of the chunks before, by another name.
            chunk: Which.
        """
        source, frame = rollout.request.request_id, 0
        before = [mark for mark in self._marks.get(source, []) if mark.chunks_begun <= chunk]
        self._marks[source] = [mark for mark in self._marks.get(source, []) if mark not in before]
        self._marks[request.request_id] = before
        other = Rollout(request, rollout.facts, self._limits)
        if before:
            other = split(before[-1], request)
            other.phase, other.rests, other.like = Phase.QUEUED, False, before[-1].request.request_id
        if chunk:
            frame = rollout.facts.frames(rollout.chunks[chunk].first)
        other.pieces_sent = sum(rollout.facts.frames(piece.end) <= frame for piece in other.pieces)
        other.chunks_begun, other.paused = chunk, rollout.paused
        return other

    def forget(self, request_id: RequestId) -> Sequence[RequestId]:
        """Give up the marks of a stream that is gone; returns them."""
        return _names(self._marks.pop(request_id, []))

    def forget_all(self) -> None:
        """Note that the ranks are gone, and all marks with them."""
        self._marks.clear()


def _leaves_marks(request: RenderRequest) -> bool:
    return request.live and request.recipe.memory is not None and request.recipe.chunking.stagger is None


def _names(marks: Iterable[Rollout]) -> list[RequestId]:
    return [mark.request.request_id for mark in marks]
