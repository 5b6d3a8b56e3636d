"""The plans of one crew of ranks: numbered, one in flight, and what they still have to say."""

from typing import Any

from reelray.proto.errors import EngineError
from reelray.proto.request import RequestId
from reelray.proto.step_plan import Amend, Crew, StepPlan, StepReport
from reelray.scheduler.rollout import Rollout


class CrewLine:
    """Bookkeeping of one crew.

    Args:
        crew: Which; None means all ranks.
        ranks: Numbers of its ranks; None means all.
    """

    def __init__(self, crew: Crew | None, ranks: range | None = None) -> None:
        self.crew = crew
        self.issued: StepPlan | None = None
        self.issued_at_s = 0.0
        self._ranks = ranks
        self._sequence = 0
        self._admits: list[Rollout] = []
        self._amends: dict[RequestId, Amend] = {}
        self._releases: list[RequestId] = []

    @property
    def is_free(self) -> bool:
        """Whether no plan is in flight."""
        return self.issued is None

    @property
    def has_news(self) -> bool:
        """Whether the ranks are to take in requests, or other wordings of them, or to forget some."""
        return bool(self._admits or self._amends or self._releases)

    @property
    def frees(self) -> bool:
        """Whether the next plan releases requests."""
        return bool(self._releases)

    def has(self, rank: int) -> bool:
        """Whether a rank belongs to the crew."""
        return self._ranks is None or rank in self._ranks

    def welcome(self, rollout: Rollout) -> None:
        """Have the next plan admit a request."""
        self._admits.append(rollout)

    def amend(self, amend: Amend) -> None:
        """Have the next plan tell another wording of a request, unless it admits the request as it is by then."""
        if all(rollout.request.request_id != amend.request_id for rollout in self._admits):
            self._amends[amend.request_id] = amend

    def dismiss(self, request_id: RequestId) -> None:
        """Have the next plan release a request, unless these ranks have never heard of it."""
        kept = [rollout for rollout in self._admits if rollout.request.request_id != request_id]
        if len(kept) == len(self._admits):
            self._releases.append(request_id)
        self._admits = kept
        self._amends.pop(request_id, None)

    def issue(self, generation: int, now_s: float, **parts: Any) -> StepPlan:
        """Form the plan that is in flight from here on.

        Args:
            generation: Of the gang.
            now_s: Seconds on the caller's monotonic clock.
            **parts: What it says beside releases and admits; see `StepPlan`.
        """
        self.issued = StepPlan(
            sequence=self._sequence,
            generation=generation,
            crew=self.crew,
            releases=tuple(self._releases),
            admits=tuple(rollout.admit(self.crew) for rollout in self._admits),
            amends=tuple(self._amends.values()),
            **parts,
        )
        self.issued_at_s = now_s
        self._sequence += 1
        self._admits, self._amends, self._releases = [], {}, []
        return self.issued

    def answer(self, report: StepReport) -> StepPlan:
        """Take the plan in flight as done.

        Raises:
            EngineError: The report answers another one.
        """
        plan = self.issued
        if plan is None or (report.sequence, report.generation) != (plan.sequence, plan.generation):
            raise EngineError(f"report of step {report.generation}.{report.sequence}, which is not in flight")
        self.issued = None
        return plan

    def restart(self) -> None:
        """Begin anew with ranks that know nothing."""
        self.issued = None
        self._sequence = 0
        self._admits, self._amends, self._releases = [], {}, []
