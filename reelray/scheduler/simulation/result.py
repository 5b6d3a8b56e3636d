"""What a simulation came to."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reelray.scheduler.simulation.records import Record

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupResult:
    """Of requests of one kind.

    Args:
        group: ``stream``, ``interactive`` or ``batch``.
        requests: That came.
        finished: Of them.
        refused: Of them, by reason.
        deadlines: Requests that had one.
        met: Of these, refused ones included, the share that was kept; None without deadlines.
        met_of_admitted: Of these, those left out that were refused as they came; promises broken later count.
        wait_s: From arrival to first start, by percentile.
        slowdown: From arrival to end over the time alone on the fewest GPUs, by percentile.
        gpu_s: GPU-seconds.
        stops: So often a render made room.
    """

    group: str
    requests: int
    finished: int
    refused: Mapping[str, int]
    deadlines: int
    met: float | None
    met_of_admitted: float | None
    wait_s: Mapping[int, float]
    slowdown: Mapping[int, float]
    gpu_s: float
    stops: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationResult:
    """Of all.

    Args:
        gpus: Simulated.
        makespan_s: From the first arrival to the last end.
        utilisation: Share of GPU-seconds until then that were worked.
        lost_gpu_s: GPU-seconds that faults made be done again.
        events: That happened.
        groups: By kind of request.
    """

    gpus: int
    makespan_s: float
    utilisation: float
    lost_gpu_s: float
    events: int
    groups: tuple[GroupResult, ...]

    def as_json(self) -> dict[str, Any]:
        """For `json.dumps`."""
        return asdict(self)


def sum_up(records: Sequence[Record], *, gpus: int, events: int) -> SimulationResult:
    """Sum a run up.

    Args:
        records: Of all requests.
        gpus: Of the fleet.
        events: That happened.
    """
    ends = [record.finish_s for record in records if record.finish_s is not None]
    makespan_s = max(ends) - min(record.at_s for record in records) if ends else 0.0
    worked = sum(record.gpu_s for record in records)
    groups = [
        sum_group(name, [record for record in records if record.group == name])
        for name in ("stream", "interactive", "batch")
    ]
    return SimulationResult(
        gpus=gpus,
        makespan_s=makespan_s,
        utilisation=worked / (gpus * makespan_s) if makespan_s else 0.0,
        lost_gpu_s=sum(record.lost_gpu_s for record in records),
        events=events,
        groups=tuple(group for group in groups if group.requests),
    )


def sum_group(name: str, records: Sequence[Record]) -> GroupResult:
    """Sum up requests of one kind."""
    dated = [record for record in records if record.deadline_s is not None]
    admitted = [record for record in dated if record.was_admitted]
    met = sum(record.is_met for record in dated)
    ended = [(record.finish_s - record.at_s) / record.alone_s for record in records if record.finish_s is not None]
    waits = [record.start_s - record.at_s for record in records if record.start_s is not None]
    return GroupResult(
        group=name,
        requests=len(records),
        finished=len(ended),
        refused=dict(Counter(record.refused.value for record in records if record.refused is not None)),
        deadlines=len(dated),
        met=met / len(dated) if dated else None,
        met_of_admitted=met / len(admitted) if admitted else None,
        wait_s=percentiles(waits),
        slowdown=percentiles(ended),
        gpu_s=sum(record.gpu_s for record in records),
        stops=sum(record.stops for record in records),
    )


def percentiles(values: Sequence[float]) -> dict[int, float]:
    """The smallest value that so many percent do not exceed; empty without values."""
    ordered = sorted(values)
    return {p: ordered[max(0, -(-p * len(ordered) // 100) - 1)] for p in PERCENTILES} if ordered else {}
