"""Snapshots and forks on their way: asked for, carried out by the crews in plans formed together, complete."""

from collections.abc import Mapping, Sequence

from reelray.proto.errors import InputError
from reelray.proto.request import RequestId
from reelray.proto.session import Forked
from reelray.proto.snapshot import Snapshot, SnapshotKind
from reelray.proto.step_plan import Crew, ForkStep, StepReport
from reelray.scheduler.forking import Forking
from reelray.scheduler.putting_down import PuttingDown
from reelray.scheduler.rollout import ENDED, Rollout


class Copies:
    """What is being copied of which request; one copy of a request at a time.

    Args:
        rollouts: Of all requests.
        crews: How many.
    """

    def __init__(self, rollouts: Mapping[RequestId, Rollout], crews: int) -> None:
        self._rollouts, self._crews = rollouts, crews
        self._making: dict[RequestId, PuttingDown | Forking] = {}

    def put_down(self, request_id: RequestId, kind: SnapshotKind) -> None:
        """Have a snapshot of a request taken.

        Raises:
            InputError: Another copy of it is on its way.
        """
        self._making[request_id] = PuttingDown(self._find(request_id), kind, self._crews)

    def fork(self, request_id: RequestId, other: RequestId) -> None:
        """Have a request forked.

        Raises:
            InputError: Another copy of it is on its way.
        """
        self._making[request_id] = Forking(self._find(request_id), other, self._crews)

    def take_snapshots(self, report: StepReport) -> tuple[Snapshot, ...]:
        """Take in what a crew wrote; returns the snapshots that are complete."""
        found = []
        denoised, decoded = report.crew is not Crew.DECODE, report.crew is not Crew.DENOISE
        for written in report.snapshots:
            one, rollout = self._making.get(written.request_id), self._rollouts.get(written.request_id)
            if isinstance(one, PuttingDown) and rollout is not None and rollout.phase not in ENDED:
                snapshot = one.take(written.parts, denoised=denoised, decoded=decoded)
                if snapshot is not None:
                    del self._making[written.request_id]
                    found.append(snapshot)
        return tuple(found)

    def take_forks(self, forks: Sequence[ForkStep], report: StepReport) -> list[tuple[Rollout, Forked]]:
        """Take in what a crew made of the forks of its plan; returns those that are complete."""
        found = []
        denoised, decoded = report.crew is not Crew.DECODE, report.crew is not Crew.DENOISE
        for step in forks:
            one = self._making.get(step.source)
            # Else it is a mark, or its stream was cancelled and released since.
            if isinstance(one, Forking) and one.name == step.request.request_id:
                failed = [failure.error for failure in report.failures if failure.request_id == step.request.request_id]
                made = one.take(step.request, failed, denoised=denoised, decoded=decoded)
                if made is not None:
                    del self._making[step.source]
                    found.append(made)
        return found

    @property
    def names(self) -> frozenset[RequestId]:
        """Of the forks on their way."""
        return frozenset(one.name for one in self._making.values() if isinstance(one, Forking))

    def forget(self, request_id: RequestId) -> None:
        """Make nothing of a request that is gone."""
        self._making.pop(request_id, None)

    def begin_anew(self) -> None:
        """Have new ranks make all of it; of requests that are gone nothing."""
        self._making = {i: one for i, one in self._making.items() if i in self._rollouts}
        for one in self._making.values():
            one.begin_anew()

    def _find(self, request_id: RequestId) -> Rollout:
        if request_id in self._making:
            raise InputError(
                f"a snapshot or a fork of request {request_id} is being taken; wait for it",
                ids={"request": str(request_id)},
            )
        return self._rollouts[request_id]
