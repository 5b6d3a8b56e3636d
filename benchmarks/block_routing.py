"""Routing of blocks on one GPU beside what memory and arithmetic allow: pooling, scores, selection, compensation.

python -m benchmarks.block_routing
python -m benchmarks.block_routing --device cpu --tiny
python -m benchmarks.block_routing --sweep

bf16, random data, 128 channels. Results are checked first; nothing is timed when one is wrong. Each contender is ten
calls in one CUDA graph, so that what is timed is kernels and not their launches. Targets of other shapes than 14B-720p
are scaled by the floor. Scores to select from are spread as those of a model: means of random tokens hardly differ.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Timing, describe_machine, relative_error, time_interleaved
from reelray.kernels.block_attention.lists import BlockLists
from reelray.kernels.block_routing import api, reference, select_reference
from reelray.kernels.block_routing.limits import make_limits

COPY_BYTES_PER_S, PRODUCT_FLOPS, SCORE_FLOPS, SPARSE_FLOPS = 4.3e12, 788e12, 600e12, 450e12
DENSITY, MASS, SPREAD, STRIDE, REPEATS = 0.1, 0.8, 2.0, 16, 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What is routed.

    Args:
        heads: Heads.
        tokens: Tokens.
        rows: Tokens of a block.
        parts: Parts of a block, for scores of sub-blocks.
        width: Channels of a head.
    """

    heads: int
    tokens: int
    rows: int = 64
    parts: int = 4
    width: int = 128

    @property
    def blocks(self) -> int:
        """G."""
        return -(-self.tokens // self.rows)

    @property
    def count(self) -> int:
        """Blocks of a list at the density of the case."""
        return max(1, round(DENSITY * self.blocks))


FULL = {
    "14B-720p": Shape(heads=10, tokens=75_600),
    "14B-720p, blocks of 128": Shape(heads=10, tokens=75_600, rows=128),
    "1.3B-480p": Shape(heads=12, tokens=32_760),
}
TINY = {"tiny": Shape(heads=2, tokens=300, rows=16, width=32)}
BASE = FULL["14B-720p"]
# name -> target in ms at BASE; floors are of the same name in `floors`
TARGETS = {
    "pool q and k": 0.120,
    "pool q and k, parts and similarity": 0.120,
    "sum v": 0.060,
    "score parts": 0.250,
    "score parts in half": 0.250,
    "score parts in tf32x3": 0.250,
    "score halves of blocks": 0.090,
    "score means, select count": 0.060,
    "score means, select mass": 0.060,
    "compensate": 0.800,
    "pool, score means, select": 0.325,
    "pool, score parts, select": 0.325,
}


def floors(shape: Shape) -> dict[str, float]:
    """Milliseconds that memory or arithmetic takes at least, by contender."""
    tokens = shape.heads * shape.tokens * shape.width * 2 / COPY_BYTES_PER_S * 1e3
    pairs = shape.heads * shape.blocks**2
    written = pairs * 4 / COPY_BYTES_PER_S * 1e3

    def score(parts: int) -> float:
        return max(2 * pairs * parts**2 * shape.width / SCORE_FLOPS * 1e3, written)

    found = {
        "pool q and k": 2 * tokens,
        "pool q and k, parts and similarity": 2 * tokens,
        "sum v": tokens,
        "score parts": score(shape.parts),
        "score parts in half": score(shape.parts),
        "score parts in tf32x3": score(shape.parts),
        "score halves of blocks": score(2),
        "score means": score(1),
        "score antidiagonals": 2 * shape.heads * shape.tokens**2 * shape.width / STRIDE / PRODUCT_FLOPS * 1e3,
        "select count": written,
        "select mass": written,
        "select by torch.topk and sort": written,
        "compensate": 4 * shape.heads * shape.tokens * shape.blocks * shape.width / PRODUCT_FLOPS * 1e3,
    }
    for how in ("count", "mass"):
        found[f"score means, select {how}"] = found["score means"] + written
    for how in ("means", "parts"):
        found[f"pool, score {how}, select"] = 2 * tokens + found[f"score {how}"] + written
    return found


def targets(shape: Shape) -> dict[str, float]:
    """Milliseconds to reach, by contender; all of routing is a twentieth of sparse attention at the density."""
    base, here = floors(BASE), floors(shape)
    found = {name: target * here[name] / base[name] for name, target in TARGETS.items()}
    attention_ms = DENSITY * 4 * shape.heads * shape.tokens**2 * shape.width / SPARSE_FLOPS * 1e3
    return found | {name: 0.05 * attention_ms for name in found if name.startswith("pool, score")}


class Routing:
    """One shape's tensors, and the steps of its routing."""

    def __init__(self, shape: Shape, device: str) -> None:
        self.shape, self.scale = shape, shape.width**-0.5
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        size = (1, shape.tokens, shape.heads, shape.width)
        self.q, self.k, self.v = (torch.randn(size, device=device, dtype=dtype) for _ in range(3))
        self.counts = {
            parts: api.count_parts(shape.tokens, shape.rows, parts=parts, device=device)
            for parts in {1, 2, shape.parts}
        }
        self.means = {parts: self.pool(parts) for parts in self.counts}
        scores = self.score(1)
        self.scores = scores * (SPREAD / scores[scores.isfinite()].std())
        self.lists = self.select(self.scores)

    def pool(self, parts: int) -> tuple[Tensor, Tensor]:
        """Means of queries and keys."""
        rows = self.shape.rows
        return api.pool_blocks(self.q, rows, parts=parts), api.pool_blocks(self.k, rows, parts=parts)

    def pool_with_similarity(self) -> None:
        """Means of parts and self-similarity of queries and keys."""
        for x in (self.q, self.k):
            api.pool_with_similarity(x, self.shape.rows, parts=self.shape.parts)

    def score(self, parts: int, means: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Scores of means of so many parts."""
        counts = self.counts[parts]
        return api.score_blocks(*(means or self.means[parts]), self.scale, q_counts_QP=counts, k_counts_GR=counts)

    def score_antidiagonals(self) -> Tensor:
        """Scores by antidiagonals."""
        return api.score_antidiagonals(self.q, self.k, self.shape.rows, self.shape.rows, STRIDE)

    def score_in(self, precision: str) -> Tensor:
        """Scores of parts in another precision of the kernel."""
        from reelray.kernels.block_routing.scores import score

        counts = self.counts[self.shape.parts]
        scores: Tensor = score(*self.means[self.shape.parts], self.scale, counts, counts, precision)
        return scores

    def select(self, scores: Tensor, *, mass: float | None = None) -> BlockLists:
        """Lists by count, or by mass with twice the count at most."""
        rows, count = self.shape.rows, self.shape.count
        limits: dict[str, Any] = {"count": count} if mass is None else {"mass": mass, "most": 2 * count}
        return api.select_blocks(scores, query_rows=rows, key_rows=rows, **limits)

    def select_by_sort(self) -> Tensor:
        """What torch has: the highest scores, then their order."""
        return self.scores.topk(self.shape.count, dim=-1, sorted=False).indices.sort(dim=-1).values

    def route(self, parts: int) -> BlockLists:
        """Pool, score and select."""
        return self.select(self.score(parts, self.pool(parts)))

    def compensate(self) -> tuple[Tensor, Tensor]:
        """What stands for the skipped blocks; the sums of the values are there."""
        sizes = self.counts[1][:, 0]
        return api.compensate(self.q, self.means[1][1][:, :, :, 0], self.v_sums, sizes, self.lists)

    @property
    def v_sums(self) -> Tensor:
        """Sums of the values of each block."""
        if not hasattr(self, "_v_sums"):
            self._v_sums = api.sum_blocks(self.v, self.shape.rows)
        return self._v_sums

    def contenders(self) -> dict[str, Callable[[], Any]]:
        """What is timed."""
        parts, scores = self.shape.parts, self.scores
        assert self.v_sums is not None
        found: dict[str, Callable[[], Any]] = {
            "pool q and k": partial(self.pool, 1),
            "pool q and k, parts and similarity": self.pool_with_similarity,
            "sum v": partial(api.sum_blocks, self.v, self.shape.rows),
            "score means": partial(self.score, 1),
            "score halves of blocks": partial(self.score, 2),
            "score parts": partial(self.score, parts),
            "score antidiagonals": self.score_antidiagonals,
            "select count": partial(self.select, scores),
            "select mass": partial(self.select, scores, mass=MASS),
            "select by torch.topk and sort": self.select_by_sort,
            "score means, select count": lambda: self.select(self.score(1)),
            "score means, select mass": lambda: self.select(self.score(1), mass=MASS),
            "compensate": self.compensate,
            "pool, score means, select": partial(self.route, 1),
            "pool, score parts, select": partial(self.route, parts),
        }
        if self.q.is_cuda:
            for precision in ("half", "tf32x3"):
                found[f"score parts in {precision}"] = partial(self.score_in, precision)
        return found


def check(routing: Routing) -> list[dict[str, Any]]:
    """Our results beside those of the references, on the same device."""
    shape, rows = routing.shape, []

    def add(what: str, error: float, limit: float) -> None:
        rows.append({"what": what, "error": error, "limit": limit})

    for parts in sorted(routing.counts):
        found = routing.means[parts]
        wanted = tuple(reference.pool_blocks(x, shape.rows, parts, None) for x in (routing.q, routing.k))
        add(f"means of {parts} parts", max(relative_error(*pair) for pair in zip(found, wanted, strict=True)), 1e-5)
        counts = routing.counts[parts]
        scores = reference.score_blocks(*found, routing.scale, counts, counts)
        add(f"scores of {parts} parts, largest error", float((routing.score(parts) - scores).abs().max()), 1e-4)
    add("sums of v", relative_error(routing.v_sums, reference.sum_blocks(routing.v, shape.rows, None)), 1e-5)
    similarity = api.pool_similarity(routing.k, shape.rows)
    add("similarity", relative_error(similarity, reference.pool_similarity(routing.k, shape.rows, None)), 1e-4)
    for how, mass in (("count", None), ("mass", MASS)):
        lists = routing.select(routing.scores, mass=mass)
        lists.check(shape.blocks)
        least, most = (1, 2 * shape.count) if mass else (shape.count, None)
        limits = make_limits(
            routing.scores, None if mass else least, mass, least=1, most=most, capacity=lists.capacity, has_keep=False
        )
        index, count = select_reference.select(routing.scores, None, None, limits)
        wrong = (lists.index_BNQC != index).any(-1) | (lists.count_BNQ != count)
        add(f"lists by {how}, share of other rows", float(wrong.double().mean()), 1e-3 if mass else 0.0)
    q, k = (x[:, : 16 * shape.rows + 5, :1] for x in (routing.q, routing.k))
    diagonals = reference.score_antidiagonals(q, k, (shape.rows, shape.rows), STRIDE, routing.scale)
    diagonals -= api.score_antidiagonals(q, k, shape.rows, shape.rows, STRIDE, scale=routing.scale)
    add("antidiagonals, largest error", float(diagonals.abs().max()), 1e-4)
    mixed, lse = routing.compensate()
    sizes, k_means = routing.counts[1][:, 0], routing.means[1][1][:, :, :, 0]
    v_means = routing.v_sums / sizes[:, None]
    mask, bias = routing.lists.mask(shape.blocks), sizes.float().log()
    truth = reference.compensate(routing.q, k_means * routing.scale, v_means, bias, listed=mask, query_rows=shape.rows)
    add("compensation", relative_error(mixed, truth[0]), 1e-2)
    add("compensation, largest error of the logs", float((lse - truth[1]).abs().max()), 5e-3)
    return rows


def capture(run: Callable[[], Any], device: str) -> Callable[[], Any]:
    """Ten calls in one CUDA graph."""
    if device != "cuda":
        return run
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(REPEATS):
            run()
    return graph.replay


def measure(contenders: dict[str, Callable[[], Any]], device: str, runs: int) -> dict[str, Timing]:
    """Milliseconds of one call."""
    captured = {name: capture(run, device) for name, run in contenders.items()}
    calls = REPEATS if device == "cuda" else 1
    return {
        name: replace(
            timing,
            median_ms=timing.median_ms / calls,
            best_ms=timing.best_ms / calls,
            worst_ms=timing.worst_ms / calls,
        )
        for name, timing in time_interleaved(captured, runs=runs).items()
    }


def show(name: str, shape: Shape, timings: dict[str, Timing]) -> None:
    """One line a contender: microseconds, floor, target."""
    floor, target = floors(shape), targets(shape)
    print(f"{name}: {shape.heads} heads x {shape.tokens}, {shape.blocks} blocks of {shape.rows}, {shape.parts} parts")
    for contender, timing in timings.items():
        wanted = target.get(contender)
        verdict = (
            "" if wanted is None else f"target {wanted * 1e3:7.1f} {'met' if timing.median_ms <= wanted else 'MISSED'}"
        )
        times = f"{timing.median_ms * 1e3:9.1f} us  floor {floor[contender] * 1e3:7.1f}"
        print(f"  {contender:38s} {times}  {verdict}", flush=True)


@contextmanager
def setting(module: Any, **constants: int) -> Iterator[None]:
    """A kernel's constants, changed for a while."""
    before = {name: getattr(module, name) for name in constants}
    try:
        for name, value in constants.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def sweep(routing: Routing, runs: int) -> dict[str, dict[str, Timing]]:
    """Other tiles, warps and stages of the kernels."""
    from reelray.kernels.block_routing import compensation, pooling, scores, selection

    tries: dict[str, list[tuple[Any, dict[str, int]]]] = {
        "score parts": [
            (scores, {"KEY_CELLS": cells, "STAGES": stages, "WARPS": warps})
            for cells, stages, warps in ((64, 2, 8), (64, 3, 8), (128, 2, 8), (128, 1, 8), (64, 2, 4))
        ],
        "score means": [(scores, {"QUERY_CELLS": cells, "WARPS": warps}) for cells, warps in ((128, 8), (64, 4))],
        "select count": [(selection, {"BLOCKS_PER_WARP": blocks}) for blocks in (512, 1024, 2048)],
        "select mass": [(selection, {"BLOCKS_PER_WARP": blocks}) for blocks in (512, 1024, 2048)],
        "pool q and k": [(pooling, {"ELEMENTS_PER_WARP": elements}) for elements in (1024, 2048, 4096)],
        "compensate": [
            (compensation, {"KEY_TILE": keys, "STAGES": stages})
            for keys, stages in ((64, 2), (64, 3), (128, 2), (32, 3))
        ],
    }
    found: dict[str, dict[str, Timing]] = {}
    for name, choices in tries.items():
        found[name] = {}
        for module, constants in choices:
            with setting(module, **constants):
                timing = measure({name: routing.contenders()[name]}, "cuda", runs)[name]
            found[name][str(constants)] = timing
            print(f"  {name:20s} {constants!s:55s} {timing.median_ms * 1e3:9.1f} us", flush=True)
    return found


@torch.no_grad()
def main() -> None:
    """Check, time, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/block_routing.json"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a few tokens, for CPUs")
    parser.add_argument("--sweep", action="store_true", help="try other tiles, warps and stages on the first shape")
    parser.add_argument("--runs", type=int, default=21)
    options = parser.parse_args()
    torch.manual_seed(0)
    cases: dict[str, Any] = {}
    for name, shape in (TINY if options.tiny else FULL).items():
        routing = Routing(shape, options.device)
        rows = check(routing)
        for row in rows:
            print(f"{name}: {row['what']:45s} {row['error']:.1e} of {row['limit']:.0e}", flush=True)
        if any(not row["error"] <= row["limit"] for row in rows):
            sys.exit("wrong result")
        timings = measure(routing.contenders(), options.device, options.runs)
        show(name, shape, timings)
        cases[name] = {
            "shape": asdict(shape),
            "correctness": rows,
            "floors_ms": floors(shape),
            "targets_ms": targets(shape),
            "timings": {contender: asdict(timing) for contender, timing in timings.items()},
        }
        if options.sweep and options.device == "cuda":
            table = sweep(routing, options.runs)
            cases[name]["sweep"] = {n: {k: asdict(t) for k, t in row.items()} for n, row in table.items()}
            break
    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"case": "block_routing", "machine": describe_machine(), "density": DENSITY, "mass": MASS, "cases": cases}
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
