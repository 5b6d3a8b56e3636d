"""From the samples of all ranks to medians, speed-ups, and what the plan had predicted."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from reelray.cluster.bench.request import BenchRequest
from reelray.proto.layout import Layout
from reelray.proto.residency import Residency
from reelray.scheduler.plan.calibration import Calibration
from reelray.scheduler.plan.prediction import predict_decode_s
from reelray.scheduler.plan.step_time import Setting, predict_step

OURS = "reelray"
FORWARD, GUIDED, DECODE = "forward", "guided step", "decode"
Row = dict[str, Any]


def summarise(request: BenchRequest, rows: Sequence[Mapping[str, Any]], tables: Mapping[str, Calibration]) -> list[Row]:
    """Add medians, speed-ups over one rank of the same kind, and predictions with their errors.

    Args:
        request: What was asked.
        rows: As the ranks found them.
        tables: Calibrations to predict with, by what the report calls them.
    """
    found = [{**row, **time_row(row)} for row in rows]
    for row in found:
        alone = median_of(found, row["what"], row["by"], "")
        if row["median_ms"] is not None and alone is not None:
            row["speed_up"] = alone / row["median_ms"]
        row["predictions"] = {}
        if row["by"] != OURS:
            continue
        for name, table in tables.items():
            predicted_ms = predict_row(request, row, table)
            if predicted_ms is not None:
                error = None if row["median_ms"] is None else predicted_ms / row["median_ms"] - 1
                row["predictions"][name] = {"ms": predicted_ms, "error": error}
    return found


def time_row(row: Mapping[str, Any]) -> Row:
    """Milliseconds of a row: of what ranks share, the slowest counts; of what each does alone, their mean."""
    samples = row.get("samples_ms")
    if not samples:
        return {"median_ms": None, "best_ms": None, "worst_ms": None, "runs": 0}
    reduce = statistics.fmean if row["ranks"] == 1 else max
    per_run = [reduce(ranks) for ranks in samples]
    return {
        "median_ms": statistics.median(per_run),
        "best_ms": min(per_run),
        "worst_ms": max(per_run),
        "runs": len(per_run),
    }


def median_of(rows: Sequence[Mapping[str, Any]], what: str, by: str, layout: str) -> float | None:
    """Median of a measured row; None where there is none."""
    return next((r["median_ms"] for r in rows if (r["what"], r["by"], r["layout"]) == (what, by, layout)), None)


def predict_row(request: BenchRequest, row: Mapping[str, Any], table: Calibration) -> float | None:
    """What a plan says of a row; None where plans say nothing."""
    job = request.job
    if request.case.remembered:
        return None
    if row["what"] in {FORWARD, GUIDED}:
        layout = Layout.parse(row["layout"])
        setting = Setting(job=job, layout=layout, residency=Residency(), link=request.link, table=table)
        return predict_step(setting, job.windows[0], guided=row["what"] == GUIDED).total_ms
    if row["what"] == DECODE:
        return predict_decode_s(job, table, row["ranks"]) * 1000
    return None


def wrong_rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong among our own results, one line each."""
    return [
        f"{row['what']}, {row['layout'] or 'one rank'}: relative error {row['error']:.2e}, limit {row['limit']:.2e}"
        for row in rows
        if row["wrong"] and row["by"] == OURS
    ]
