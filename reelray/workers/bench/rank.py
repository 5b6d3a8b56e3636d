"""What one rank of a benchmark does, from building the model to its findings."""

import importlib.metadata
import json
import platform
import time
from typing import Any

import torch
from torch import distributed as dist

from reelray.proto.layout import Layout
from reelray.workers.bench.case import ParallelCase
from reelray.workers.bench.decode import measure_decode
from reelray.workers.bench.forwards import measure_forwards
from reelray.workers.bench.rates import measure_rates
from reelray.workers.bench.timing import gather
from reelray.workers.models.registry import open_bench_model
from reelray.workers.parallel.local_ranks import LocalRank
from reelray.workers.parallel.mesh import Mesh

PACKAGES = ("torch", "triton", "diffusers", "xfuser")
EARLY_SHARE = 0.5
"""Of the time, after which decode leaves the rest to the forwards."""


class Findings:
    """What rank 0 knows so far; kept in the journal, so that a lost world does not lose all.

    Args:
        case: What is measured.
        first: Whether this is rank 0.
    """

    def __init__(self, case: ParallelCase, *, first: bool) -> None:
        self.data: dict[str, Any] = {"machine": {}, "rates": {}, "rows": [], "peers": {}, "done": [], "peak_bytes": []}
        self._checked: list[dict[str, Any]] = []
        self._journal = case.journal if first else None

    def add(self, part: str, **found: Any) -> None:
        """Take in what a part has found."""
        for name, value in found.items():
            self.data[name] = self.data[name] + value if isinstance(value, list) else {**self.data[name], **value}
        self.data["done"].append(part)
        self._write(self.data)

    def note(self, row: dict[str, Any]) -> None:
        """Keep a row of a part that is not done."""
        self._checked.append(row)
        self._write({**self.data, "rows": self.data["rows"] + self._checked})

    def _write(self, data: dict[str, Any]) -> None:
        if self._journal is not None:
            self._journal.write_text(json.dumps(data))


def run_case(rank: LocalRank, case: ParallelCase) -> dict[str, Any]:
    """Measure a case; every rank of the world calls it.

    Returns:
        The findings, ready for JSON; the same on every rank.
    """
    started_s = time.monotonic()
    findings = Findings(case, first=rank.rank == 0)
    findings.add("start", machine=describe(rank))
    model = open_bench_model(case.source, rank.device, seed=case.seed)
    for tensor in model.weights():
        dist.broadcast(tensor, 0)
    mesh = Mesh.create([Layout(replica=rank.ranks), *case.layouts], rank.device)
    if "rates" in case.parts:
        findings.add("rates", rates=measure_rates(case, model, mesh))
    if "decode" in case.parts:
        stop_at_s = started_s + EARLY_SHARE * case.stop_s
        findings.add("decode", rows=measure_decode(case, model, stop_at_s=stop_at_s))
    if "forward" in case.parts:
        if rank.device.type == "cuda":
            torch.cuda.empty_cache()
        rows, peers = measure_forwards(case, model, mesh, stop_at_s=started_s + case.stop_s, note=findings.note)
        findings.add("forward", rows=rows, peers=peers)
    if rank.device.type == "cuda":
        findings.add("memory", peak_bytes=gather(torch.cuda.max_memory_allocated(rank.device)))
    model.close()
    mesh.close()
    return findings.data


def describe(rank: LocalRank) -> dict[str, Any]:
    """Hardware and versions as this rank sees them."""
    facts: dict[str, Any] = {"ranks": rank.ranks, "python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        facts[package] = installed(package)
    facts["device"] = platform.processor() or platform.machine()
    if rank.device.type == "cuda":
        facts["device"] = torch.cuda.get_device_name(rank.device)
        facts["cuda"] = str(torch.version.cuda)
        facts["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        facts["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    return facts


def installed(package: str) -> str:
    """Version of a package, or that there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
