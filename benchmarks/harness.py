"""Timing and reports that every case shares."""

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Milliseconds of one contender.

    Args:
        median_ms: Median of the runs.
        best_ms: Fastest run.
        worst_ms: Slowest run.
        runs: Number of timed runs.
    """

    median_ms: float
    best_ms: float
    worst_ms: float
    runs: int


def time_interleaved(contenders: dict[str, Callable[[], Any]], *, runs: int, warmup: int = 2) -> dict[str, Timing]:
    """Time contenders in turn, so that clocks and temperature are the same for all.

    Args:
        contenders: Name and what to run; each synchronises by itself or through the events around it.
        runs: Timed runs of each.
        warmup: Untimed runs of each first.
    """
    for run in contenders.values():
        for _ in range(warmup):
            run()
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, run in contenders.items():
            samples[name].append(time_once(run))
    return {
        name: Timing(median_ms=statistics.median(ms), best_ms=min(ms), worst_ms=max(ms), runs=runs)
        for name, ms in samples.items()
    }


def time_once(run: Callable[[], Any]) -> float:
    """Milliseconds of one run, by device events where there is a device."""
    if not torch.cuda.is_available():
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3
    torch.cuda.synchronize()
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    before.record()
    run()
    after.record()
    torch.cuda.synchronize()
    return float(before.elapsed_time(after))


def slowest(samples: Sequence[Sequence[float]]) -> Timing:
    """Of each run the slowest rank, which is how long the run takes.

    Args:
        samples: Milliseconds of each run, by rank.
    """
    per_run = sorted(max(ms) for ms in zip(*samples, strict=True))
    return Timing(median_ms=per_run[len(per_run) // 2], best_ms=per_run[0], worst_ms=per_run[-1], runs=len(per_run))


def profile_kernels(run: Callable[[], Any], *, count: int = 25) -> list[dict[str, Any]]:
    """Device time of one run by kernel, the costliest first.

    Args:
        run: What to run; warmed up already.
        count: Kernels listed; the others are summed.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    kernels = sorted(profile.key_averages(), key=lambda k: k.self_device_time_total, reverse=True)
    rows = [{"kernel": k.key[:90], "ms": k.self_device_time_total / 1e3, "calls": k.count} for k in kernels[:count]]
    rest = kernels[count:]
    rest_ms = sum(k.self_device_time_total for k in rest) / 1e3
    return [*rows, {"kernel": "others", "ms": rest_ms, "calls": sum(k.count for k in rest)}]


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    """‖value - reference‖ / ‖reference‖ in float32; NaN stays NaN."""
    difference = (value.float() - reference.float()).norm()
    return float(difference / reference.float().norm())


def describe_machine() -> dict[str, str]:
    """Hardware and versions, for the report's head."""
    facts = {"python": platform.python_version(), "machine": platform.machine(), "cpu": platform.processor()}
    for package in ("torch", "triton", "diffusers", "transformers", "ray"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
        facts["cuda"] = str(torch.version.cuda)
        facts["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    return facts


def write_report(
    path: Path,
    case: str,
    rows: list[dict[str, Any]],
    timings: dict[str, dict[str, Timing]],
    profiles: dict[str, list[dict[str, Any]]] | None = None,
) -> None:
    """Write the raw numbers of one case as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "case": case,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": describe_machine(),
        "correctness": rows,
        "timings": {shape: {name: asdict(t) for name, t in table.items()} for shape, table in timings.items()},
        **({"profiles": profiles} if profiles else {}),
    }
    path.write_text(json.dumps(report, indent=2) + "\n")
