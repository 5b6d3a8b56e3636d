"""Launches of attention over block lists, measured one by one: the best becomes a row of the table."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.block_attention_cases import Case, count_flop
from benchmarks.block_attention_check import check
from reelray.kernels.block_attention.launch import launch
from reelray.kernels.block_attention.lists import BlockLists
from reelray.kernels.block_attention.tiles import Tile, choose_tile, fit

SHARED_KIB = 227

# queries, keys, warps, stages, most registers, descriptors. Compiled for sm_90a, those with 128 registers spill at most
# 68 bytes and run two programs on a processor; a warp group of 64 rows holds no more than 128 keys.
GRID = (
    (128, 64, 8, 2, None, False),
    (128, 64, 8, 3, None, False),
    (128, 64, 8, 4, None, False),
    (128, 128, 8, 2, None, False),
    (128, 128, 8, 3, None, False),
    (128, 64, 8, 3, None, True),
    (128, 64, 8, 4, None, True),
    (128, 128, 8, 2, None, True),
    (128, 128, 8, 3, None, True),
    (128, 32, 8, 3, 128, False),
    (128, 32, 8, 3, 128, True),
    (128, 32, 8, 4, 128, True),
    (128, 64, 8, 2, 128, True),
    (128, 64, 4, 2, None, True),
    (64, 64, 4, 2, 168, False),
    (64, 64, 4, 3, None, False),
    (64, 64, 4, 2, 168, True),
    (64, 128, 4, 2, None, True),
)
NARROW = ((128, 64, 8, 3, 128, False), (128, 64, 4, 3, None, False), (128, 128, 8, 3, 128, True))


def name_tile(tile: Tile) -> str:
    """Short words for a launch."""
    more = [f"{tile.registers} registers"] if tile.registers else []
    more += [word for word in ("descriptors", "specializes", "settles") if getattr(tile, word)]
    return " ".join([f"{tile.queries}x{tile.keys} w{tile.warps} s{tile.stages}", *more])


def candidates(case: Case) -> list[Tile]:
    """Launches that the case's blocks allow, each once."""
    grid = (*GRID, *NARROW) if case.width == 64 else GRID
    tiles = [choose_tile(case.width, case.query_rows, case.key_rows, 1 << 20)]
    for queries, keys, warps, stages, registers, descriptors in grid:
        made = Tile(
            queries=queries, keys=keys, warps=warps, stages=stages, registers=registers, descriptors=descriptors
        )
        fitted = fit(made, case.query_rows, case.key_rows, has_lengths=case.paged)
        if fitted.queries == queries and fitted.keys == keys and shared_kib(fitted, case.width) <= SHARED_KIB:
            tiles.append(fitted)
    settled = replace(tiles[0], settles=torch.cuda.is_available())
    return list(dict.fromkeys([*tiles, settled]))


def shared_kib(tile: Tile, width: int) -> float:
    """Shared memory for one tile of queries and `stages` tiles of keys and values."""
    return 2 * width * (tile.queries + 2 * tile.stages * tile.keys) / 1024


def tune(
    case: Case, qkv: tuple[Tensor, ...], lists: BlockLists, timer: Callable[..., dict[str, Any]], *, runs: int
) -> list[dict[str, Any]]:
    """Check and time every launch, print them by speed and the best one as a row of the table."""
    q, k, v = qkv
    parts = (lists.index_BNQC, lists.count_BNQ, lists.length_G, lists.order_BNQ)
    rows: list[dict[str, Any]] = []
    calls: dict[Tile, Callable[[], Any]] = {}
    for tile in candidates(case):
        run = partial(
            launch, (q, k, v), parts, None, tile, rows=(case.query_rows, case.key_rows), paged=case.paged, splits=1
        )
        try:
            found = check(name_tile(tile), run, qkv, lists)
        except Exception as error:  # noqa: BLE001  (a launch that does not compile or fit is no candidate)
            print(f"  none  {name_tile(tile)}: {type(error).__name__} {str(error)[:90]}", flush=True)
            continue
        rows.append({"case": case.name, **found})
        if found["red"]:
            print(f"  RED   {name_tile(tile)}: {found['says']}", flush=True)
        else:
            calls[tile] = run
    timings = timer({name_tile(tile): run for tile, run in calls.items()}, runs=min(runs, 15))
    flop = count_flop(case, lists)[0]
    order = sorted(calls, key=lambda tile: timings[name_tile(tile)].median_ms)
    print(f"\n{case.name}, lists of up to {int(lists.count_BNQ.max())}")
    for tile in order:
        ms = timings[name_tile(tile)].median_ms
        rows.append({"case": case.name, "what": name_tile(tile), "ms": ms, "tflops": flop / ms / 1e9})
        print(f"  {name_tile(tile):44} {ms:9.3f} ms {flop / ms / 1e9:7.1f} TFLOP/s")
    if order:
        print(f"    ({case.width}, {case.query_rows}, {case.key_rows}): {order[0]},", flush=True)
    return rows
