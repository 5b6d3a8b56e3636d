"""A plan on its way through the ranks of a gang: who has reported, and who is late."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from reelray.proto.errors import RankLostError
from reelray.proto.step_plan import RequestFailure, StepPlan, StepReport
from reelray.workers.engine.merge_reports import merge_reports


@dataclass(kw_only=True, slots=True)
class GangStep:
    """What has come of one plan in flight.

    Args:
        plan: The plan.
        ranks: Who carries it out.
        moved_at: When its work was last seen to move.
        reports: Of those that are done.
        failure: The first that a rank has told, here or in the plan of the other crew that belongs to this one.
        failed_at: When.
    """

    plan: StepPlan
    ranks: Sequence[int]
    moved_at: float
    reports: dict[int, StepReport] = field(default_factory=dict)
    failure: RequestFailure | None = None
    failed_at: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether every rank has reported."""
        return len(self.reports) == len(self.ranks)

    def merge(self) -> StepReport:
        """One report out of all."""
        return merge_reports([self.reports[rank] for rank in self.ranks])

    def answers(self, report: StepReport) -> bool:
        """Whether a report is one of this plan."""
        plan = self.plan
        return (report.crew, report.sequence, report.generation) == (plan.crew, plan.sequence, plan.generation)

    def fail(self, failure: RequestFailure, now: float) -> None:
        """Note that a request has failed in some of its ranks; others may wait for these in a collective."""
        if self.failure is None:
            self.failure, self.failed_at = failure, now

    def judge(self, now: float, *, lag_s: float, stall_s: float, generation: int) -> None:
        """Look for ranks that do not come back.

        Raises:
            RankLostError: There are some.
        """
        ids = {"generation": str(generation)}
        if self.failure is not None and now - self.failed_at > lag_s and (lagging := self._waiting(self.failure)):
            request = str(self.failure.request_id)
            raise RankLostError(
                f"one rank failed with request {request}, and the others do not come back from it",
                ids=ids | {"request": request, "ranks": ",".join(map(str, lagging))},
            ) from self.failure.error
        if now - self.moved_at > stall_s:
            late = [str(rank) for rank in self.ranks if rank not in self.reports]
            raise RankLostError(
                f"no progress for {stall_s:g} s in rank {', '.join(late)}", ids=ids | {"ranks": ",".join(late)}
            )

    def _waiting(self, failure: RequestFailure) -> list[int]:
        """Ranks that have not come back from the request that failed; other lanes may take their time."""
        concerned = self.plan.ranks_of(failure.request_id)
        return [r for r in self.ranks if r not in self.reports and (concerned is None or r in concerned)]


def tell_failure(steps: Collection[GangStep], origin: GangStep, failure: RequestFailure, now: float) -> None:
    """Note a failure in the plan where it happened and in that of the other crew, where both share collectives."""
    for step in steps:
        if step is origin or (step.plan.joint and origin.plan.joint):
            step.fail(failure, now)
