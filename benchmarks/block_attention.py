"""Attention over block lists on one GPU beside cuDNN, torch's flash and FlexAttention: bf16, random data, interleaved.

Correctness comes first: sampled blocks against float64 under the rule "at most twice the error of torch in bf16",
logs within 1e-3, equal bits in every run. A case that fails prints no speed. Rates count whole listed blocks; `useful`
counts the tokens that are there. `--tune` measures many launches and prints the best of each kind as rows of
`reelray.kernels.block_attention.tiles.TABLE`.

python -m benchmarks.block_attention --out benchmarks/results/block_attention.json
python -m benchmarks.block_attention --cases A1,A2 --tune
TRITON_INTERPRET=1 python -m benchmarks.block_attention --device cpu --tiny --out /tmp/tiny.json
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.block_attention_cases import CASES, Case, count_flop
from benchmarks.block_attention_check import check
from benchmarks.block_attention_tune import name_tile, tune
from benchmarks.harness import Timing, write_report
from reelray.kernels.block_attention.api import attend_blocks, attend_pages
from reelray.kernels.block_attention.launch import launch
from reelray.kernels.block_attention.lists import BlockLists
from reelray.kernels.block_attention.tiles import Tile, choose_splits, choose_tile, count_processors
from reelray.kernels.block_attention.triton import block_attention_kernel

Result = tuple[Tensor, Tensor]
SLEEP_CYCLES = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """What is timed.

    Args:
        run: The call.
        flop: Operations of whole blocks that it does.
        useful: Of them, those on tokens that are there.
        lists: What it attends, where it is ours.
    """

    run: Callable[[], Any]
    flop: float
    useful: float
    lists: BlockLists | None = None


def main() -> None:
    """Check, time, report."""
    options = parse()
    device = torch.device(options.device)
    rows: list[dict[str, Any]] = []
    tables: dict[str, dict[str, Timing]] = {}
    chosen = [case for case in CASES if any(case.name.startswith(start) for start in options.cases.split(","))]
    for case in chosen:
        here = case.tiny() if options.tiny else case
        if options.tune:
            rows += tune(here, *prepare(here, device), time_queued, runs=options.runs)
            continue
        row, table = measure(here, device, options)
        rows.append(row)
        tables[case.name] = table
        if device.type == "cuda":
            torch.cuda.empty_cache()
    write_report(options.out, "block_attention", rows, tables)
    if any(row.get("red") for row in rows):
        sys.exit("wrong result")


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/block_attention.json"))
    parser.add_argument("--cases", default="A,D,P", help="beginnings of names, with commas between")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--warmup", type=float, default=0.5, help="seconds before each case")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU")
    parser.add_argument("--tune", action="store_true", help="measure launches in place of contenders")
    parser.add_argument("--no-flex", action="store_true", help="FlexAttention takes some 10 s to compile")
    return parser.parse_args()


def prepare(case: Case, device: torch.device) -> tuple[tuple[Tensor, Tensor, Tensor], BlockLists]:
    """Random queries, keys, values and the lists; what lies behind the rows of a page is NaN."""
    generator = torch.Generator(device).manual_seed(1)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    lists = case.lists(device)
    sizes = (1, case.queries, case.heads, case.width)
    key_sizes = (case.blocks[1], case.key_rows, *sizes[2:]) if case.paged else (1, case.keys, *sizes[2:])
    q, k, v = (
        torch.randn(size, device=device, generator=generator).to(dtype) for size in (sizes, key_sizes, key_sizes)
    )
    if lists.length_G is not None:
        behind = torch.arange(case.key_rows, device=device) >= lists.length_G[:, None]
        k[behind], v[behind] = torch.nan, torch.nan
    return (q, k, v), lists


def measure(case: Case, device: torch.device, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Timing]]:
    """Check a case, then time it beside the others and print a table."""
    qkv, lists = prepare(case, device)
    contenders = ours(case, qkv, lists) | (dense(case, qkv) if device.type == "cuda" else {})
    if case.flex and device.type == "cuda" and not options.no_flex:
        contenders |= flex(case, qkv, lists)
    found = [
        check(name, contender.run, qkv, contender.lists)
        for name, contender in contenders.items()
        if contender.lists is not None
    ]
    row = {
        "what": case.name,
        "contenders": found,
        "red": any(one["red"] for one in found if one["what"].startswith("ours")),
    }
    contenders = {
        name: one for name, one in contenders.items() if not any(f["red"] and f["what"] == name for f in found)
    }
    print(
        f"\n{case.name}: {case.heads} heads, {case.queries} x {case.keys}, density {lists.density(case.blocks[1]):.3f}"
    )
    for one in found:
        print(f"  {'RED  ' if one['red'] else 'right'} {one['what']:34} {one['says']}", flush=True)
    if row["red"]:
        return row, {}
    timings = time_queued({name: one.run for name, one in contenders.items()}, runs=options.runs, warmup=options.warmup)
    row["rates"] = show(case, contenders, timings)
    return row, timings


def ours(case: Case, qkv: tuple[Tensor, ...], lists: BlockLists) -> dict[str, Contender]:
    """The kernel as the table launches it, and in other forms."""
    longest = int(lists.count_BNQ.max())
    tile = choose_tile(case.width, case.query_rows, case.key_rows, longest)
    tiles = case.heads * case.blocks[0] * -(-case.query_rows // tile.queries)
    splits = choose_splits(tiles, longest * case.key_rows // tile.keys, count_processors(qkv[0].device))
    forms = {"ours": (lists, tile, splits)}
    if splits > 1:
        forms["ours, 1 split"] = (lists, tile, 1)
    elif case.paged:
        forms["ours, 2 splits"] = (lists, tile, 2)
    if not case.paged and case.key_rows % tile.keys == 0:
        forms["ours, descriptors"] = (lists, replace(tile, descriptors=True), splits)
    if case.key_rows == 64:
        forms["ours, two blocks a tile"] = (lists, replace(tile, keys=128), splits)
    if case.uneven:
        forms["ours, longest first"] = (lists.longest_first(), tile, splits)
        count = round(float(lists.count_BNQ.double().mean()))
        forms["ours, even lists"] = (even(case, count, lists), tile, splits)
    made = {}
    for name, (which, form, parts) in forms.items():
        flop, useful = count_flop(case, which)
        run = partial(attend, case, qkv, which, form, parts)
        made[f"{name} {name_tile(form)}"] = Contender(run=run, flop=flop, useful=useful, lists=which)
    return made


def even(case: Case, count: int, like: BlockLists) -> BlockLists:
    """Random lists that all have the same length."""
    generator = torch.Generator(like.count_BNQ.device).manual_seed(2)
    score_NQG = torch.rand(case.heads, *case.blocks, device=generator.device, generator=generator)
    mask_NQG = torch.zeros_like(score_NQG, dtype=torch.bool)
    return case.of_mask(mask_NQG.scatter_(-1, score_NQG.topk(max(1, count), -1).indices, True))


def attend(case: Case, qkv: tuple[Tensor, ...], lists: BlockLists, tile: Tile, splits: int) -> Result:
    """Our kernel with a given launch; the formula on a CPU without the interpreter."""
    q, k, v = qkv
    if not q.is_cuda and isinstance(block_attention_kernel, triton.JITFunction):
        return (attend_pages if case.paged else attend_blocks)(q, k, v, lists)
    parts = (lists.index_BNQC, lists.count_BNQ, lists.length_G, lists.order_BNQ)
    rows = (lists.query_rows, lists.key_rows)
    return launch((q, k, v), parts, None, tile, rows=rows, paged=case.paged, splits=splits)


def dense(case: Case, qkv: tuple[Tensor, ...]) -> dict[str, Contender]:
    """Torch's dense attention over all keys, contiguous."""
    q, k, v = qkv
    if case.paged:
        k, v = (chunked(case, part) for part in (k, v))
    q, k, v = (part.contiguous().transpose(1, 2) for part in (q, k, v))
    flop = 4.0 * case.width * case.heads * case.queries * case.keys

    def run(backend: SDPBackend) -> Tensor:
        with sdpa_kernel(backend):
            mixed: Tensor = scaled_dot_product_attention(q, k, v)
        return mixed

    backends = {"cuDNN, dense": SDPBackend.CUDNN_ATTENTION, "torch flash, dense": SDPBackend.FLASH_ATTENTION}
    return {name: Contender(run=partial(run, which), flop=flop, useful=flop) for name, which in backends.items()}


def chunked(case: Case, pages: Tensor) -> Tensor:
    """The tokens of all pages, one after the other."""
    rows = pages.reshape(case.chunks, case.pages * case.key_rows, *pages.shape[2:])
    return rows[:, : case.chunk_tokens].flatten(0, 1)[None]


def flex(case: Case, qkv: tuple[Tensor, ...], lists: BlockLists) -> dict[str, Contender]:
    """FlexAttention over the same blocks, compiled."""
    from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

    keys = case.blocks[1]
    none = torch.zeros_like(lists.count_BNQ)
    index_BNQG = lists.index_BNQC.new_zeros((*lists.count_BNQ.shape, keys))
    kept = min(keys, lists.capacity)
    index_BNQG[..., :kept] = lists.index_BNQC[..., :kept]
    mask = BlockMask.from_kv_blocks(
        none, index_BNQG, lists.count_BNQ, index_BNQG, BLOCK_SIZE=(case.query_rows, case.key_rows),
        seq_lengths=(case.queries, case.keys),
    )  # fmt: skip
    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=False)
    q, k, v = (part.transpose(1, 2) for part in qkv)
    whole, useful = count_flop(case, lists)

    def run() -> Result:
        mixed, more = compiled(q, k, v, block_mask=mask, return_aux=AuxRequest(lse=True))
        return mixed.transpose(1, 2), more.lse.transpose(1, 2)

    return {"FlexAttention": Contender(run=run, flop=whole, useful=useful, lists=lists)}


def time_queued(
    contenders: dict[str, Callable[[], Any]], *, runs: int, warmup: float = 0.2, most_s: float = 6.0
) -> dict[str, Timing]:
    """Time contenders in turn; fewer runs where `runs` would take longer than `most_s`."""
    on_gpu = torch.cuda.is_available()
    for run in contenders.values():
        run()
    until = time.perf_counter() + warmup
    while on_gpu and time.perf_counter() < until:
        for run in contenders.values():
            run()
        torch.cuda.synchronize()
    round_s = sum(time_one(run, on_gpu) for run in contenders.values()) / 1e3
    runs = min(runs, max(5, int(most_s / round_s))) if on_gpu else 1
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, run in contenders.items():
            samples[name].append(time_one(run, on_gpu))
    return {
        name: Timing(median_ms=statistics.median(ms), best_ms=min(ms), worst_ms=max(ms), runs=len(ms))
        for name, ms in samples.items()
    }


def time_one(run: Callable[[], Any], on_gpu: bool) -> float:
    """Milliseconds of one run; on a GPU it is queued behind a pause, so that the host's time is not counted."""
    if not on_gpu:
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda._sleep(SLEEP_CYCLES)  # type: ignore[no-untyped-call]  # noqa: SLF001
    before.record()
    run()
    after.record()
    torch.cuda.synchronize()
    return float(before.elapsed_time(after))


def show(case: Case, contenders: dict[str, Contender], timings: dict[str, Timing]) -> dict[str, dict[str, float]]:
    """Print rates and whether our best reaches what it should."""
    rates = {}
    for name, one in contenders.items():
        ms = timings[name].median_ms
        rates[name] = {"ms": ms, "tflops": one.flop / ms / 1e9, "useful_tflops": one.useful / ms / 1e9}
        rate = rates[name]
        print(f"  {name:40} {ms:9.3f} ms {rate['tflops']:7.1f} TFLOP/s, useful {rate['useful_tflops']:7.1f}")
    if not torch.cuda.is_available():
        return rates
    chosen = {name: rate for name, rate in rates.items() if name.startswith("ours") and "even lists" not in name}
    best = max(chosen, key=lambda name: chosen[name]["tflops"])
    table = next(iter(chosen))
    goals = {"target": case.target, "gate": case.gate}
    for goal, least in goals.items():
        if least is not None:
            met = {name: "met" if chosen[name]["tflops"] >= least else "NOT met" for name in (table, best)}
            print(f"  {goal} {least:.0f} TFLOP/s: {met[table]} by the table, {met[best]} by {best}")
    if case.target_ms is not None:
        met = {name: "met" if chosen[name]["ms"] <= case.target_ms else "NOT met" for name in (table, best)}
        print(f"  target {case.target_ms} ms: {met[table]} by the table, {met[best]} by {best}")
    if "cuDNN, dense" in rates:
        print(f"  {rates['cuDNN, dense']['ms'] / rates[best]['ms']:.2f} times as fast as dense cuDNN", flush=True)
    return rates


if __name__ == "__main__":
    with torch.inference_mode():
        main()
