import itertools
import math

import pytest
import torch

from reelray.proto.sparsity import TokenOrderKind
from reelray.workers.acceleration.sparsity.curve import curve
from reelray.workers.acceleration.sparsity.orders import Orders, make_order
from reelray.workers.acceleration.sparsity.tilings import CUBE, exact_tile, frame_major, tiled
from reelray.workers.acceleration.sparsity.token_order import Grid, TokenOrder

WAN_720P, WAN_480P, HUNYUAN, CHUNK = (21, 45, 80), (21, 30, 52), (33, 45, 80), (3, 30, 52)
GRIDS = [(21, 8, 12), (5, 6, 7), (1, 9, 17), (3, 1, 5), (1, 1, 1), (4, 8, 16)]


def where(grid: Grid, token: int) -> tuple[int, int, int]:
    _, rows, columns = grid
    return token // (rows * columns), token // columns % rows, token % columns


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", list(TokenOrderKind))
def test_every_token_has_one_place_and_comes_back(kind: TokenOrderKind, grid: Grid) -> None:
    order = make_order(kind, grid, 128)
    tokens_BSC = torch.arange(2 * order.tokens * 3.0).view(2, order.tokens, 3)
    laid_BPC = order.take(tokens_BSC)
    assert laid_BPC.shape == (2, order.places, 3)
    assert torch.equal(order.join(laid_BPC), tokens_BSC)
    assert torch.equal(order.take(tokens_BSC.transpose(0, 1), dim=0), laid_BPC.transpose(0, 1))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", list(TokenOrderKind))
def test_lengths_ranges_and_first_frame_are_those_of_the_tokens_in_each_block(kind: TokenOrderKind, grid: Grid) -> None:
    order = make_order(kind, grid, 128)
    for rows in (order.rows, order.rows // 2 if order.rows % 2 == 0 else order.rows):
        blocks = order.cut(rows)
        place_of = order.place_S.tolist()
        members: dict[int, list[tuple[int, int, int]]] = {}
        for token, place in enumerate(place_of):
            members.setdefault(place // rows, []).append(where(grid, token))
            # Tokens stand before the padding of their block, so that a length says which they are.
            assert place % rows < int(blocks.length_G[place // rows])
        assert blocks.count == math.ceil(order.places / rows)
        for block in range(blocks.count):
            inside = members.get(block, [])
            assert int(blocks.length_G[block]) == len(inside)
            assert bool(blocks.is_empty[block]) == (not inside)
            assert bool(blocks.holds_first[block]) == any(at[0] == 0 for at in inside)
            for axis in range(3 if inside else 0):
                assert int(blocks.low_G3[block, axis]) == min(at[axis] for at in inside)
                assert int(blocks.high_G3[block, axis]) == max(at[axis] for at in inside) + 1


@pytest.mark.parametrize("grid", [*itertools.product((1, 2, 3, 5, 6), repeat=3), (7, 10, 13), (21, 8, 12)])
def test_the_curve_goes_from_each_token_to_one_next_to_it(grid: Grid) -> None:
    order = curve(grid, 64)
    way = [where(grid, token) for token in order.token_P.tolist()]
    assert sorted(way) == sorted(where(grid, token) for token in range(math.prod(grid)))
    for here, there in itertools.pairwise(way):
        assert max(abs(a - b) for a, b in zip(here, there, strict=True)) == 1


def test_the_curve_moves_along_one_axis_at_a_time_in_even_boxes() -> None:
    way = [where((5, 8, 6), token) for token in curve((5, 8, 6), 64).token_P.tolist()]
    assert {sum(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in itertools.pairwise(way)} == {1}


def test_blocks_of_the_curve_are_compact() -> None:
    blocks = curve((17, 16, 16), 64).cut()
    extents = (blocks.high_G3 - blocks.low_G3).float()
    assert extents.amax(1).mean() <= 6  # 64 tokens of a row-major order are 4 whole rows, 16 long


@pytest.mark.parametrize(
    ("grid", "rows", "slack", "tile"),
    [
        (WAN_720P, 128, 0.0, (7, 9, 2)),
        (WAN_720P, 128, 0.05, (3, 5, 8)),
        (WAN_720P, 64, 0.0, (7, 9, 1)),
        (WAN_720P, 64, 0.05, (3, 5, 4)),
        (WAN_480P, 128, 0.0, (21, 3, 2)),
        (WAN_480P, 128, 0.05, (3, 10, 4)),
        (WAN_480P, 64, 0.0, (21, 3, 1)),
        (HUNYUAN, 128, 0.0, (3, 5, 8)),
        (HUNYUAN, 64, 0.0, (3, 5, 4)),
        (CHUNK, 128, 0.0, (3, 10, 4)),
        ((20, 48, 80), 64, 0.0, (4, 4, 4)),
        ((13, 17, 19), 128, 0.0, (1, 1, 19)),
    ],
)
def test_exact_tiles_divide_the_grid_and_fill_blocks(grid: Grid, rows: int, slack: float, tile: Grid) -> None:
    found = exact_tile(grid, rows, slack)
    assert found == tile
    assert all(size % side == 0 for size, side in zip(grid, found, strict=True))
    if not slack:
        sizes = (math.prod(sides) for sides in itertools.product(*map(divisors, grid)))
        assert math.prod(found) == max(size for size in sizes if size <= rows)


def divisors(size: int) -> list[int]:
    return [side for side in range(1, size + 1) if size % side == 0]


@pytest.mark.parametrize(
    ("grid", "tile", "waste"),
    [
        (WAN_720P, CUBE, 0.219),
        (WAN_480P, CUBE, 0.219),
        (WAN_480P, (6, 8, 8), 0.313),
        (CHUNK, CUBE, 0.422),
        (CHUNK, (6, 8, 8), 1.297),
        (WAN_480P, (1, 8, 16), 0.313),
        (WAN_720P, (3, 5, 8), 0.0),
        ((20, 48, 80), CUBE, 0.0),
    ],
)
def test_waste_of_tiles_that_do_not_divide(grid: Grid, tile: Grid, waste: float) -> None:
    order = tiled(grid, tile)
    assert order.waste() == pytest.approx(waste, abs=1e-3)
    assert (order.length_T is None) == (waste == 0)


def test_waste_counts_the_rows_that_a_kernel_adds_and_the_last_block() -> None:
    assert tiled(WAN_720P, (3, 5, 8)).waste(128) == pytest.approx(128 / 120 - 1)
    assert frame_major((1, 10, 13), 128).waste() == pytest.approx(256 / 130 - 1)


def test_a_tile_keeps_its_tokens_together_in_frame_major_order() -> None:
    order = tiled((2, 2, 4), (1, 2, 2))
    assert order.token_P.tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]


def test_padding_stands_behind_the_tokens_of_its_tile_and_repeats_one() -> None:
    order = tiled((1, 3, 3), (1, 2, 2))
    assert order.token_P.tolist() == [0, 1, 3, 4, 2, 5, 2, 2, 6, 7, 6, 6, 8, 8, 8, 8]
    assert order.length_T is not None
    assert order.length_T.tolist() == [4, 2, 2, 1]
    assert order.cut().list_lengths is not None
    halves = order.cut(2)
    assert halves.length_G.tolist() == [2, 2, 2, 0, 2, 0, 1, 0]
    with pytest.raises(ValueError, match="blocks of 3 rows do not divide tiles of 4, which are padded"):
        order.cut(3)


def test_an_order_without_padding_can_be_cut_anywhere() -> None:
    blocks = tiled((1, 4, 4), (1, 2, 2)).cut(6)
    assert blocks.length_G.tolist() == [6, 6, 4]
    assert blocks.list_lengths is None


def test_frames_overlap_within_reach_and_never_in_padding() -> None:
    blocks = tiled((3, 1, 1), (2, 1, 1)).cut(1)
    assert blocks.length_G.tolist() == [1, 1, 1, 0]
    own = blocks.overlaps_frames(blocks)
    assert own.tolist() == [[row == column and row < 3 for column in range(4)] for row in range(4)]
    near = blocks.overlaps_frames(blocks, reach=1)
    assert near.tolist() == [
        [abs(row - column) <= 1 and max(row, column) < 3 for column in range(4)] for row in range(4)
    ]


@pytest.mark.parametrize(
    ("grid", "rows", "tile"),
    [
        (WAN_720P, 128, (3, 5, 8)),
        (WAN_480P, 128, (3, 10, 4)),
        (HUNYUAN, 128, (3, 5, 8)),
        (WAN_720P, 64, (3, 5, 4)),
        (WAN_480P, 64, (3, 5, 4)),
    ],
)
def test_tiles_are_short_in_time_so_that_keeping_the_first_frame_keeps_few(grid: Grid, rows: int, tile: Grid) -> None:
    order = make_order(TokenOrderKind.TILES, grid, rows)
    assert order.tile == tile
    assert order.length_T is None
    assert order.cut().holds_first.float().mean() == pytest.approx(tile[0] / grid[0])


def test_the_first_frame_lies_apart_on_the_curve() -> None:
    for grid in ((21, 8, 12), (5, 7, 9), (1, 4, 4)):
        frame = grid[1] * grid[2]
        assert set(curve(grid, 64).token_P[:frame].tolist()) == set(range(frame))
    assert int(curve(WAN_720P, 128).cut().holds_first.sum()) == math.ceil(45 * 80 / 128)


def test_orders_are_made_once_by_whoever_keeps_them() -> None:
    orders = Orders()
    first = orders.order(TokenOrderKind.CURVE, (2, 3, 4), 64)
    assert orders.order(TokenOrderKind.CURVE, (2, 3, 4), 64) is first
    assert orders.order(TokenOrderKind.CURVE, (2, 3, 5), 64) is not first
    assert Orders().order(TokenOrderKind.CURVE, (2, 3, 4), 64) is not first


def test_a_wrong_number_of_tokens_is_refused() -> None:
    order: TokenOrder = tiled((1, 3, 3), (1, 2, 2))
    with pytest.raises(ValueError, match="dim 1 has 8 tokens; this order takes 9"):
        order.take(torch.zeros(1, 8))
    with pytest.raises(ValueError, match="dim 1 has 9 tokens; this order takes 16"):
        order.join(torch.zeros(1, 9))


@pytest.mark.parametrize(
    "make", [lambda: curve((0, 2, 2), 64), lambda: curve((2, 2, 2), 0), lambda: tiled((1, 1, 1), (0, 1, 1))]
)
def test_numbers_below_one_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        make()  # type: ignore[operator]
