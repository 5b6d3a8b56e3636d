"""What `reelray simulate` prints."""

from collections.abc import Mapping
from typing import Any

from reelray.cluster.simulation_request import SimulatedRun
from reelray.scheduler.simulation.result import PERCENTILES, GroupResult

COLUMNS = ("requests", "came", "done", "refused", "deadlines", "met", "wait p50/p90/p99 s", "slowdown p50/p90/p99")


def describe_simulation(run: SimulatedRun) -> str:
    """The run as text: the fleet, a table by kind of request, the whole."""
    result, options = run.result, run.options
    cells = [COLUMNS, *(_cells(group) for group in result.groups)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
    table = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    stops = sum(group.stops for group in result.groups)
    head = (
        f"{result.gpus} GPUs in engines of {options.engine_gpus}, {run.model}, policy {options.policy}; "
        f"times as table {run.table} has them"
    )
    whole = (
        f"makespan {result.makespan_s:.1f} s, GPUs busy {result.utilisation:.1%}, renders stopped for others {stops}, "
        f"GPU-seconds lost {result.lost_gpu_s:.0f}, events {result.events}"
    )
    return "\n".join([head, "", *table, "", whole])


def simulation_json(run: SimulatedRun) -> dict[str, Any]:
    """The run, JSON-ready."""
    options = run.options
    asked = {"trace": options.trace, "policy": options.policy, "engine_gpus": options.engine_gpus, "seed": options.seed}
    return {"model": run.model, "table": run.table, **asked, "error": options.error, **run.result.as_json()}


def _cells(group: GroupResult) -> tuple[str, ...]:
    return (
        group.group,
        str(group.requests),
        str(group.finished),
        str(sum(group.refused.values())),
        str(group.deadlines),
        "-" if group.met is None else f"{group.met:.1%}",
        _join(group.wait_s, ".1f"),
        _join(group.slowdown, ".2f"),
    )


def _join(values: Mapping[int, float], form: str) -> str:
    return "/".join(format(values[p], form) for p in PERCENTILES) if values else "-"
