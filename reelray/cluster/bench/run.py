"""Runs a case on local ranks and puts the report together."""

import datetime as dt
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reelray.cluster.bench.request import BenchRequest
from reelray.cluster.bench.results import summarise, wrong_rows
from reelray.cluster.bench.table import Table, make_table
from reelray.cluster.calibration import (
    load_calibration,
    packaged_table,
    parse_calibration,
    read_calibration,
    read_table,
)
from reelray.proto.errors import EngineError, InputError, ResourceError

CALIBRATED = "the table written or named"


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchResult:
    """What came of a benchmark.

    Args:
        report: Ready for JSON.
        table: Calibration table of this machine; None where no rate was measured.
        failure: Why it is not complete or not right; None when all is well.
    """

    report: dict[str, Any]
    table: Table | None
    failure: EngineError | None


def run_bench(request: BenchRequest, *, base: Path | None = None) -> BenchResult:
    """Measure. What was found before a rank was lost is kept.

    Args:
        request: What to measure.
        base: Calibration table that this run refines; None takes the packaged one.

    Raises:
        ResourceError: There are fewer devices than ranks.
        InputError: The base is no calibration table.
        EngineError: A rank was lost before anything was found.
    """
    check_devices(request)
    base_table = read_base(base)
    started = dt.datetime.now(dt.UTC)
    findings, failure = measure(request)
    shipped = load_calibration()
    tables = {f"table {shipped.name}": shipped}
    findings["rows"] = summarise(request, findings["rows"], tables)
    table = make_table(request, findings, base_table, today=started.date()) if findings["rates"] else None
    if table is not None or base is not None:
        # Without rates of its own, a run tests the table that an earlier one made.
        tables[CALIBRATED] = parse_calibration(table or base_table, CALIBRATED)
        findings["rows"] = summarise(request, findings["rows"], tables)
    wrong = wrong_rows(findings["rows"])
    if wrong and failure is None:
        failure = EngineError(f"wrong result, so its kind is not timed: {'; '.join(wrong)}")
    return BenchResult(report=make_report(request, findings, started, failure), table=table, failure=failure)


def measure(request: BenchRequest) -> tuple[dict[str, Any], EngineError | None]:
    """Run the ranks; when one is lost, what rank 0 had written down until then.

    Raises:
        EngineError: A rank was lost before anything was found.
    """
    from reelray.workers.bench.rank import run_case  # noqa: PLC0415  pulls in torch
    from reelray.workers.parallel.local_ranks import run_ranks  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="reelray-bench-") as folder:
        journal = Path(folder) / "journal.json"
        try:
            found = run_ranks(
                run_case,
                replace(request.case, journal=journal),
                ranks=request.ranks,
                device=request.device,
                deadline_s=request.limit_s,
                threads=1 if request.device == "cpu" else None,
            )
        except EngineError as error:
            findings = read_journal(journal)
            if findings is None:
                raise
            return findings, error
    return found[0], None


def read_journal(journal: Path) -> dict[str, Any] | None:
    """What rank 0 wrote last; None when it wrote nothing, or was ended while it wrote."""
    try:
        found: dict[str, Any] = json.loads(journal.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def check_devices(request: BenchRequest) -> None:
    """Refuse to start more ranks than there are devices.

    Raises:
        ResourceError: There are fewer.
    """
    if request.device != "cuda":
        return
    import torch  # noqa: PLC0415  only a run needs it

    here = torch.cuda.device_count()
    if here < request.ranks:
        raise ResourceError(
            f"{request.ranks} GPUs are wanted and torch sees {here}; use fewer --gpus, or --device cpu --tiny"
        )


def read_base(path: Path | None) -> Table:
    """Read the table that fills the gaps.

    Raises:
        InputError: The file is no calibration table.
    """
    if path is None or not path.exists():
        found: Table = packaged_table()
        return found
    try:
        read_calibration(path)
        found = read_table(path)
    except ValueError as error:
        raise InputError(f"--table {error}; name another file") from error
    return found


def make_report(
    request: BenchRequest, findings: Mapping[str, Any], started: dt.datetime, failure: EngineError | None
) -> dict[str, Any]:
    """Everything that was found, ready for JSON."""
    job = request.job
    return {
        "benchmark": "parallel",
        "date": started.strftime("%Y-%m-%d %H:%M UTC"),
        "model": request.name,
        "weights": "loaded" if request.case.source.folder else "random",
        "width": job.width,
        "height": job.height,
        "frames": job.frames,
        "latent_frames": job.latent_frames,
        "tokens": request.case.tokens,
        "remembered_latent_frames": request.case.remembered,
        "guidance": request.case.guidance,
        "device": request.device,
        "links": str(request.link),
        "machine": findings["machine"],
        "peers": findings["peers"],
        "measured": [part for part in findings["done"] if part in request.case.parts],
        "failure": None if failure is None else failure.message,
        "rows": findings["rows"],
        "rates": findings["rates"],
        "peak_bytes": findings["peak_bytes"],
    }
