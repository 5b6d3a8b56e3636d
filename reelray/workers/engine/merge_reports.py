"""One report out of those of all ranks."""

from collections.abc import Sequence

from reelray.proto.step_plan import Commit, StepReport


def merge_reports(reports: Sequence[StepReport]) -> StepReport:
    """Put together what each rank tells: frames, costs and parts of commits, failures of all, the largest memory.

    Of every lane one rank tells, so that what lanes did at the same time stands side by side, in their order.

    Args:
        reports: Of one plan, in the order of the ranks.

    Raises:
        ValueError: They answer different plans.
    """
    first = reports[0]
    if any((r.sequence, r.generation, r.crew) != (first.sequence, first.generation, first.crew) for r in reports):
        raise ValueError("the reports answer different plans")
    failures = {failure.request_id: failure for report in reversed(reports) for failure in report.failures}
    return StepReport(
        sequence=first.sequence,
        generation=first.generation,
        crew=first.crew,
        frames=tuple(frames for report in reports for frames in report.frames),
        late=tuple(request_id for report in reports for request_id in report.late),
        arrived=tuple(request_id for report in reports for request_id in report.arrived),
        costs=tuple(cost for report in reports for cost in report.costs),
        uses=tuple(use for report in reports for use in report.uses),
        failures=tuple(failures.values()),
        waiting=tuple(dict.fromkeys(request_id for report in reports for request_id in report.waiting)),
        refused=tuple(dict.fromkeys(request_id for report in reports for request_id in report.refused)),
        commits=_merge([commit for report in reports for commit in report.commits]),
        snapshots=_merge([snapshot for report in reports for snapshot in report.snapshots]),
        moved_bytes=sum(report.moved_bytes for report in reports),
        peak_bytes=max(report.peak_bytes for report in reports),
    )


def _merge(commits: Sequence[Commit]) -> tuple[Commit, ...]:
    """One commit for each request, with the parts that any rank told."""
    parts = {commit.request_id: dict[str, bytes]() for commit in commits}
    for commit in commits:
        parts[commit.request_id] |= commit.parts
    return tuple(Commit(request_id=i, parts=found) for i, found in parts.items())
