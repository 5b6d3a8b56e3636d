"""How the kernel is launched: a table by head width and rows of blocks, never searched while a request waits.

`python -m benchmarks.block_attention --tune` measures the candidates and prints the table.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch

SMALLEST = 16
"""Fewest rows of a matrix product."""
WIDEST = 128
"""Most rows of a tile."""
MOST_SPLITS = 8
AROUND_STEPS = 2.0
"""What the beginning and the end of a program cost, in steps of its loop."""
PARTIAL_STEPS = 1.75
"""What it costs to write a tile's partial result in float32 and to read it again: 131 kB at 33 GB/s per processor,
where a step of 128 x 128 takes 2.3 us. Estimated, not measured."""
LEAST_GAIN = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """Launch shape.

    Args:
        queries: Rows of queries of a program, a power of two.
        keys: Rows of keys of a step, a power of two; more than a block of keys has makes a tile of two blocks.
        warps: Warps per program.
        stages: Loads in flight.
        registers: Most registers of a thread, so that more programs fit one processor; the compiler's choice if None.
        descriptors: Whole tiles are loaded by tensor-memory descriptors in place of pointers.
        specializes: Loads get warps of their own; wants descriptors.
        settles: Wait for all products of a step before the next one begins.
    """

    queries: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None
    descriptors: bool = False
    specializes: bool = False
    settles: bool = False


# (head width, rows of queries, rows of keys), powers of two -> launch; rows between take the next greater entry.
# Chosen by what the compiler makes of them for sm_90a (no spills in the loop, loads two steps ahead), not yet measured.
TABLE: dict[tuple[int, int, int], Tile] = {
    (64, 64, 64): Tile(queries=64, keys=64, warps=4, stages=3),
    (64, 64, 128): Tile(queries=64, keys=64, warps=4, stages=3),
    (64, 128, 64): Tile(queries=128, keys=64, warps=4, stages=3),
    (64, 128, 128): Tile(queries=128, keys=128, warps=8, stages=3),
    (128, 64, 64): Tile(queries=64, keys=64, warps=4, stages=3),
    (128, 64, 128): Tile(queries=64, keys=64, warps=4, stages=3),
    (128, 128, 64): Tile(queries=128, keys=64, warps=8, stages=3),
    (128, 128, 128): Tile(queries=128, keys=128, warps=8, stages=3),
}
# fewest steps of a program -> most loads in flight: short lists end before a deep pipeline is full
DEPTHS = ((16, 3), (8, 2), (0, 1))


def choose_tile(width: int, query_rows: int, key_rows: int, longest: int) -> Tile:
    """The launch for blocks of such sizes.

    Args:
        width: Of a head.
        query_rows: Of a block of queries.
        key_rows: Of a block of keys.
        longest: Entries of about the longest lists.
    """
    rows = [min(max(round_up(part), 64), WIDEST) for part in (query_rows, key_rows)]
    tile = TABLE[64 if width <= 64 else 128, rows[0], rows[1]]
    return deepen(fit(tile, query_rows, key_rows, has_lengths=False), key_rows, longest)


def fit(tile: Tile, query_rows: int, key_rows: int, *, has_lengths: bool) -> Tile:
    """The launch without rows that blocks do not have, and without forms that they do not allow."""
    queries = min(tile.queries, max(SMALLEST, round_up(query_rows)))
    one = max(SMALLEST, round_up(key_rows))
    keys = tile.keys if joins(tile, key_rows) and key_rows == one and not has_lengths else min(tile.keys, one)
    tile = replace(tile, keys=keys)
    is_masked = has_lengths or (not joins(tile, key_rows) and key_rows % keys != 0)
    descriptors = tile.descriptors and not joins(tile, key_rows) and not is_masked
    return replace(tile, queries=queries, descriptors=descriptors, specializes=tile.specializes and descriptors)


def joins(tile: Tile, key_rows: int) -> bool:
    """Whether a tile is of two blocks of keys."""
    return tile.keys == 2 * key_rows and key_rows >= SMALLEST


def deepen(tile: Tile, key_rows: int, longest: int) -> Tile:
    """The launch with as many loads in flight as lists of this length can use."""
    steps = -(-longest * key_rows // tile.keys)
    depth = next(stages for least, stages in DEPTHS if steps >= least)
    return replace(tile, stages=min(tile.stages, depth))


def choose_splits(tiles: int, steps: int, processors: int) -> int:
    """Parts in which lists are attended so that the last wave of programs is nearly full; 1 where nothing is gained.

    Args:
        tiles: Programs without splits.
        steps: Tiles of keys of each.
        processors: Of the device.
    """

    def cost(splits: int) -> float:
        waves = -(-tiles * splits // processors)
        partial = PARTIAL_STEPS * tiles * splits / processors if splits > 1 else 0.0
        return waves * (-(-steps // splits) + AROUND_STEPS) + partial

    best = min((1, 2, 4, MOST_SPLITS), key=cost)
    return best if cost(best) < (1 - LEAST_GAIN) * cost(1) else 1


def round_up(rows: int) -> int:
    """The next power of two."""
    return 1 << (rows - 1).bit_length()


@cache
def count_processors(device: torch.device) -> int:
    """Of a CUDA device; of an H200 elsewhere, where nothing but a test asks."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count) if device.type == "cuda" else 132
