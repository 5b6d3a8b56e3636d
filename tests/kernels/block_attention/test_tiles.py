"""Which launch the table gives, and when lists are split."""

import pytest

from reelray.kernels.block_attention.tiles import TABLE, Tile, choose_splits, choose_tile, deepen, fit, joins

PROCESSORS = 132


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ((128, 128), (128, 128)),
        ((128, 64), (128, 64)),
        ((120, 126), (128, 128)),
        ((60, 63), (64, 64)),
        ((384, 384), (128, 128)),
        ((3, 5), (16, 16)),
    ],
)
def test_a_tile_holds_a_block_or_a_part_of_it(rows, wanted):
    for width in (64, 128):
        tile = choose_tile(width, *rows, longest=1000)
        assert (tile.queries, tile.keys) == wanted


def test_short_lists_have_fewer_loads_in_flight():
    stages = [choose_tile(128, 128, 64, longest).stages for longest in (100, 16, 15, 8, 7, 0)]
    assert stages == [3, 3, 2, 2, 1, 1]
    # tiles count, not entries: a block of 384 rows is three tiles
    assert deepen(TABLE[128, 128, 128], 384, 6).stages == 3


@pytest.mark.parametrize(
    ("rows", "has_lengths", "is_joined"), [(64, False, True), (64, True, False), (63, False, False)]
)
def test_two_whole_blocks_may_share_a_tile_and_others_may_not(rows, has_lengths, is_joined):
    tile = fit(Tile(queries=128, keys=128, warps=8, stages=2, descriptors=True), 128, rows, has_lengths=has_lengths)
    assert joins(tile, rows) == is_joined
    assert tile.keys == (128 if is_joined else 64)
    assert not tile.descriptors


@pytest.mark.parametrize(("rows", "has_lengths"), [(126, False), (128, True)])
def test_descriptors_are_for_whole_blocks(rows, has_lengths):
    tile = Tile(queries=128, keys=128, warps=8, stages=2, descriptors=True, specializes=True)
    assert fit(tile, 128, 128, has_lengths=False) == tile
    fitted = fit(tile, 128, rows, has_lengths=has_lengths)
    assert not fitted.descriptors
    assert not fitted.specializes


def test_every_entry_of_the_table_fits_its_blocks():
    for (_, queries, keys), tile in TABLE.items():
        assert fit(tile, queries, keys, has_lengths=False) == tile


@pytest.mark.parametrize(
    ("tiles", "steps", "wanted"),
    [
        (12 * 37, 256, 2),  # a chunk of a stream over all it remembers
        (6 * 37, 256, 4),  # half of its heads
        (12 * 256, 256, 1),  # a whole clip
        (12 * 37, 4, 1),  # short lists
        (1, 512, 8),
        (1, 1, 1),
    ],
)
def test_lists_are_split_where_the_last_wave_would_be_empty(tiles, steps, wanted):
    assert choose_splits(tiles, steps, PROCESSORS) == wanted
