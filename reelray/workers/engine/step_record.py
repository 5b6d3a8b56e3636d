"""Collects what one step produces on a rank."""

from collections.abc import Mapping

from reelray.proto.errors import ReelrayError
from reelray.proto.events import Frames, Stage
from reelray.proto.request import RequestId
from reelray.proto.sparsity import SparsityUse
from reelray.proto.step_plan import Commit, RequestFailure, StageCost, StepPlan, StepReport


class StepRecord:
    """The growing report of one step."""

    def __init__(self, plan: StepPlan) -> None:
        self._plan = plan
        self._frames: list[Frames] = []
        self._costs: list[StageCost] = []
        self._uses: list[tuple[RequestId, SparsityUse]] = []
        self._failures: dict[RequestId, ReelrayError] = {}
        self._commits: list[Commit] = []
        self._snapshots: list[Commit] = []
        self._moved_bytes = 0
        self.waiting: set[RequestId] = set()
        """Requests that find no room; nothing is done for them in this step."""
        self.refused: set[RequestId] = set()
        """Forks for which there is no host memory; they are not made."""
        self.late: list[RequestId] = []
        """Requests whose frames come with a later report."""
        self.arrived: list[RequestId] = []
        """Requests whose late frames are here."""

    def add_frames(self, frames: Frames) -> None:
        """Add decoded frames."""
        self._frames.append(frames)

    def arrive(self, request_id: RequestId) -> None:
        """Note that late frames are here; those of this very plan were not late."""
        if request_id in self.late:
            self.late.remove(request_id)
        else:
            self.arrived.append(request_id)

    def add_cost(self, request_id: RequestId, stage: Stage, seconds: float, forwards: int = 0) -> None:
        """Add time spent."""
        self._costs.append(StageCost(request_id=request_id, stage=stage, seconds=seconds, forwards=forwards))

    def add_use(self, request_id: RequestId, use: SparsityUse) -> None:
        """Add how much of self-attention was left out."""
        self._uses.append((request_id, use))

    def add_failure(self, request_id: RequestId, error: ReelrayError) -> None:
        """Note that a request cannot go on."""
        self._failures[request_id] = error

    def add_commit(self, request_id: RequestId, parts: Mapping[str, bytes]) -> None:
        """Add the written-down state of a request."""
        self._commits.append(Commit(request_id=request_id, parts=parts))

    def add_snapshot(self, request_id: RequestId, parts: Mapping[str, bytes]) -> None:
        """Add a snapshot of a request."""
        self._snapshots.append(Commit(request_id=request_id, parts=parts))

    def add_moved(self, received_bytes: int) -> None:
        """Add what came from other ranks for a move."""
        self._moved_bytes += received_bytes

    def report(self, peak_bytes: int) -> StepReport:
        """Close the record."""
        return StepReport(
            sequence=self._plan.sequence,
            generation=self._plan.generation,
            crew=self._plan.crew,
            frames=tuple(self._frames),
            late=tuple(self.late),
            arrived=tuple(self.arrived),
            costs=tuple(self._costs),
            uses=tuple(self._uses),
            failures=tuple(RequestFailure(request_id=i, error=e) for i, e in self._failures.items()),
            waiting=tuple(sorted(self.waiting)),
            refused=tuple(sorted(self.refused)),
            commits=tuple(self._commits),
            snapshots=tuple(self._snapshots),
            moved_bytes=self._moved_bytes,
            peak_bytes=peak_bytes,
        )
