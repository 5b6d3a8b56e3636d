"""Makes a calibration table of what was measured; the rest is copied from another table, and says so."""

import copy
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from reelray.cluster.bench.request import BenchRequest
from reelray.cluster.bench.results import DECODE, FORWARD, OURS, median_of
from reelray.cluster.calibration import packaged_table, parse_calibration
from reelray.proto.layout import Layout
from reelray.proto.residency import Residency
from reelray.scheduler.plan.job import Window
from reelray.scheduler.plan.machine import Link
from reelray.scheduler.plan.memory_use import layer_bytes
from reelray.scheduler.plan.step_time import PER_TFLOP_MS, Setting, layer_compute

COPIED = "not measured in this run; from table"
TOOL = "reelray bench parallel"
LEAST_HALF_SIZE = 1.0
LEAST_FACTOR = 0.01
LAUNCH_BOUND = 1.1
"""A layer this close to its launches tells nothing of element-wise work."""
Table = dict[str, Any]


def make_table(request: BenchRequest, findings: Mapping[str, Any], base: Mapping[str, Any], *, today: dt.date) -> Table:
    """Put a table together.

    Args:
        request: What was measured.
        findings: What the ranks found, rows with their medians.
        base: Table that fills the gaps. Points of curves that this tool measured on the same machine stay beside the
            new ones, so that several models make one table.
        today: Day of the measurement.
    """
    machine = name_machine(findings["machine"])
    numbers = {name: mark_copied(entry, base["name"], machine) for name, entry in base["numbers"].items()}
    where = f"{TOOL} on {machine}: {describe_job(request)}"
    for name, value in measured_values(request, findings).items():
        kept = [point for point in previous_points(numbers[name], machine) if isinstance(value, list)]
        joined = merge_points(kept, value) if kept else value
        source = f"{where}; some points from earlier runs on this machine" if kept else where
        numbers[name] = {"value": joined, "kind": "measured", "source": source, "date": today.isoformat()}
    if gemm := fit_products(findings["rates"].get("gemm", ())):
        rate, half_size = gemm
        points = merge_points(previous_points(numbers["gemm_tflops"], machine), [[gemm_dim(findings), rate]])
        fitted = {"kind": "fitted", "source": f"{where}; products of one layer at several token counts"}
        numbers["gemm_tflops"] = {"value": points, **fitted, "date": today.isoformat()}
        numbers["gemm_half_size"] = {"value": half_size, **fitted, "date": today.isoformat()}
    table: Table = {"name": f"bench {machine}", "about": f"Measured by {TOOL} on {machine}.", "numbers": numbers}
    fit_elementwise(table, request, findings, where=where, today=today)
    return table


def measured_values(request: BenchRequest, findings: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers that were read off the run, by their names in the table."""
    rates, rows = findings["rates"], findings["rows"]
    plain = (
        *("cross_tflops", "memory_gb_s", "relayout_gb_s", "launch_ms", "exchange_launch_ms"),
        *("host_gb_s", "host_total_gb_s", "memory_bytes"),
    )
    values: dict[str, Any] = {name: rates[name] for name in plain if name in rates}
    if "attention" in rates:
        values["attention_tflops"] = merge_points([], [[p["queries_heads"], p["tflops"]] for p in rates["attention"]])
    if "exchange" in rates and request.link is not Link.NONE:
        points = [[point["sent_bytes"], point["ms"]] for point in rates["exchange"]]
        values[f"exchange_{request.link}_ms"] = merge_points([], points)
    if "ulysses" in rates and request.link is Link.NVLINK:
        points = [[point["sent_bytes"], point["ms"]] for point in rates["ulysses"]]
        values["ulysses_nvlink_ms"] = merge_points([], points)
    if "graph_pool" in rates:
        values["graph_pool_factor"] = find_pool_factor(request, **rates["graph_pool"])
    alone_ms = median_of(rows, DECODE, OURS, "")
    if alone_ms is not None:
        job = request.job
        operations = job.sizes.decoder_first_flops + (job.latent_frames - 1) * job.sizes.decoder_flops
        values["decode_tflops"] = operations * job.latent_cells / alone_ms * PER_TFLOP_MS
        together_ms = median_of(rows, DECODE, OURS, f"rows={request.ranks}")
        if together_ms is not None:
            values["decode_speedup"] = [[1, 1.0], [request.ranks, alone_ms / together_ms]]
    return values


def find_pool_factor(request: BenchRequest, *, tokens: float, bytes: float) -> float:  # noqa: A002  (as it is written)
    """What a recording keeps, over the plan's count of one layer of the recorded window.

    Args:
        request: Says which model.
        tokens: Of the window.
        bytes: That its recording keeps.
    """
    table = parse_calibration(packaged_table(), "packaged")
    setting = Setting(job=request.job, layout=Layout(), residency=Residency(), link=request.link, table=table)
    return bytes / layer_bytes(setting, Window(tokens=int(tokens), attended=int(tokens)))


def fit_products(points: Sequence[Mapping[str, float]]) -> tuple[float, float] | None:
    """Rate of large products and the size at half that rate, by least squares of 1/rate over 1/size.

    Args:
        points: Rates by tokens, all of one width.

    Returns:
        TFLOP/s and tokens times width; None when there are no points. Where rates do not rise with size, the best one
        and the smallest half size.
    """
    if not points:
        return None
    best = max(point["tflops"] for point in points)
    pairs = [(1 / (point["tokens"] * point["dim"]), 1 / point["tflops"]) for point in points]
    mean_x, mean_y = (sum(pair[i] for pair in pairs) / len(pairs) for i in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in pairs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread if spread else 0.0
    level = mean_y - slope * mean_x
    if slope <= 0 or level <= 0:
        return best, LEAST_HALF_SIZE
    return 1 / level, max(slope / level, LEAST_HALF_SIZE)


def fit_elementwise(
    table: Table, request: BenchRequest, findings: Mapping[str, Any], *, where: str, today: dt.date
) -> None:
    """Choose the passes through memory so that the forward of one rank comes out; both keep their proportion."""
    forward_ms = median_of(findings["rows"], FORWARD, OURS, "")
    if forward_ms is None or not findings["rates"]:
        return
    layer_ms = forward_ms / request.job.facts.layers
    calibration = parse_calibration(table, table["name"])
    if layer_ms < LAUNCH_BOUND * calibration.launch_ms:
        return
    setting = Setting(job=request.job, layout=Layout(), residency=Residency(), link=request.link, table=calibration)
    known = layer_compute(setting, request.job.windows[0])
    left_ms = layer_ms - known.gemm - known.attention - known.cross
    factor = max(LEAST_FACTOR, left_ms / known.elementwise)
    for name in ("passes_dim", "passes_ffn"):
        table["numbers"][name] = {
            "value": table["numbers"][name]["value"] * factor,
            "kind": "fitted",
            "source": f"{where}; what one rank's forward takes beyond products and attention",
            "date": today.isoformat(),
        }


def merge_points(kept: Sequence[Sequence[float]], new: Sequence[Sequence[float]]) -> list[list[float]]:
    """Points of a curve by rising x; new ones replace those at the same x."""
    points = {float(x): float(y) for x, y in kept} | {float(x): float(y) for x, y in new}
    return [[x, points[x]] for x in sorted(points)]


def previous_points(entry: Mapping[str, Any], machine: str) -> list[list[float]]:
    """Points that this tool measured on the same machine before."""
    mine = f"{TOOL} on {machine}: " in entry["source"]
    return list(entry["value"]) if mine and isinstance(entry["value"], list) else []


def mark_copied(entry: Mapping[str, Any], base: str, machine: str) -> dict[str, Any]:
    """The entry, saying that it was copied, and from which table; what this machine measured earlier stays its own."""
    found = copy.deepcopy(dict(entry))
    if COPIED not in found["source"] and f"{TOOL} on {machine}: " not in found["source"]:
        found["source"] = f"{COPIED} {base}: {found['source']}"
    return found


def name_machine(facts: Mapping[str, Any]) -> str:
    """Such as ``4 x NVIDIA H200``."""
    return f"{facts['ranks']} x {facts['device']}"


def describe_job(request: BenchRequest) -> str:
    """Such as ``wan2.1-t2v-1.3b, 832x480, 81 frames``."""
    job = request.job
    return f"{request.name}, {job.width}x{job.height}, {job.frames} frames"


def gemm_dim(findings: Mapping[str, Any]) -> float:
    """Width of the measured products."""
    return float(findings["rates"]["gemm"][0]["dim"])
