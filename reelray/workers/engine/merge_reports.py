"""One report out of those of all ranks."""

from collections.abc import Sequence
from dataclasses import replace

from reelray.proto.step_plan import StepReport


def merge_reports(reports: Sequence[StepReport]) -> StepReport:
    """Take frames, costs and commits of the first rank, failures of all, and the largest memory.

    Args:
        reports: Of one plan, in the order of the ranks.

    Raises:
        ValueError: They answer different plans.
    """
    first = reports[0]
    if any((r.sequence, r.generation) != (first.sequence, first.generation) for r in reports):
        raise ValueError("the reports answer different plans")
    failures = {failure.request_id: failure for report in reversed(reports) for failure in report.failures}
    return replace(first, failures=tuple(failures.values()), peak_bytes=max(r.peak_bytes for r in reports))
