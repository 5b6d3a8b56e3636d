"""Fixed patterns against masks that are built token by token, or block by block from the words of their papers."""

import math

import pytest
import torch
from torch import Tensor

from reelray.proto.sparsity import SparseMethod, SparsityPolicy
from reelray.workers.acceleration.sparsity.curve import curve
from reelray.workers.acceleration.sparsity.patterns import (
    BlockDiagonal,
    FixedRouter,
    FrameDiagonal,
    Pattern,
    SlidingTile,
    Stripes,
)
from reelray.workers.acceleration.sparsity.radial import Radial
from reelray.workers.acceleration.sparsity.router import Blocking, Scene
from reelray.workers.acceleration.sparsity.tilings import CUBE, frame_major, tiled
from reelray.workers.acceleration.sparsity.token_order import Grid, TokenOrder

NOTHING = torch.empty(0)


def plain(order: TokenOrder, **cuts: int) -> Blocking:
    return Blocking.of(order, first_frame=False, neighbours=-1, **cuts)


def members(order: TokenOrder, rows: int) -> list[list[tuple[int, int, int]]]:
    """Where the tokens of each block stand."""
    _, height, width = order.grid
    found: list[list[tuple[int, int, int]]] = [[] for _ in range(math.ceil(order.places / rows))]
    for token, place in enumerate(order.place_S.tolist()):
        found[place // rows].append((token // (height * width), token // width % height, token % width))
    return found


def radial_tokens(grid: Grid, decay: float, near: int, block: int) -> tuple[Tensor, Tensor]:
    """Which tokens see which, and the pair of frames that each pair of tokens belongs to."""
    frames, frame = grid[0], grid[1] * grid[2]
    sees = torch.zeros(frames * frame, frames * frame, dtype=torch.bool)
    for query in range(frames * frame):
        for key in range(frames * frame):
            (i, row), (j, column) = divmod(query, frame), divmod(key, frame)
            distance = abs(i - j)
            length = 2 ** frame.bit_length() / 2 ** distance.bit_length()
            if distance <= near or j == 0:
                window: float = frame
            elif distance == 0:
                window = frame
            elif distance == 1:
                window = frame // 2
            else:
                window = max(length * decay, block)
            is_left_out = j > 0 and length < 128 and distance % int(128 / length) != 0
            sees[query, key] = abs(row - column) <= window and not is_left_out
    return sees, torch.arange(frames * frame) // frame


@pytest.mark.parametrize(
    ("grid", "rows", "decay", "near"),
    [((3, 8, 16), 16, 0.2, 0), ((3, 9, 17), 16, 0.2, 1), ((3, 10, 17), 24, 1.0, 0), ((6, 7, 9), 16, 0.3, 0)],
)
def test_radial_takes_the_blocks_that_its_rule_fills(grid: Grid, rows: int, decay: float, near: int) -> None:
    order = frame_major(grid, rows)
    found = Radial(decay=decay, near_frames=near).mask(plain(order), range(1))[0]
    sees, frame_of = radial_tokens(grid, decay, near, rows)
    blocks = math.ceil(order.tokens / rows)
    wanted = torch.zeros(blocks, blocks, dtype=torch.bool)
    for a in range(blocks):
        for b in range(blocks):
            queries, keys = slice(a * rows, (a + 1) * rows), slice(b * rows, (b + 1) * rows)
            for i in frame_of[queries].unique():
                for j in frame_of[keys].unique():
                    part = sees[queries, keys] & (frame_of[queries] == i)[:, None] & (frame_of[keys] == j)
                    share = part.float().mean(0)
                    columns = (share > 0).sum()
                    wanted[a, b] |= bool(columns and ((share > 1 / 3).sum() / columns) > 0.6)
    assert torch.equal(found, wanted)
    assert 0.1 < wanted.float().mean() < 0.95


def test_radial_attends_the_first_frame_and_thins_out() -> None:
    order = frame_major((21, 30, 52), 128)
    blocking = plain(order)
    mask = Radial().mask(blocking, range(1))[0]
    assert mask[:, :12].all()  # 12 whole blocks in the first frame of 1560 tokens
    near, far = mask[130, 100:160].float().mean(), mask[130, 195:256].float().mean()
    assert near > 2 * far


def test_radial_refuses_other_orders() -> None:
    with pytest.raises(ValueError, match="radial takes the order frames"):
        Radial().mask(plain(curve((2, 4, 4), 16)), range(1))
    with pytest.raises(ValueError, match="radial takes the order frames"):
        Radial().mask(plain(tiled((2, 3, 3), (1, 2, 2))), range(1))


def sliding_oracle(order: TokenOrder, window: Grid) -> Tensor:
    """Token by token: the window around the tile of the query, moved inwards at the edges."""
    assert order.tile is not None
    tiles = [math.ceil(size / side) for size, side in zip(order.grid, order.tile, strict=True)]
    wanted = torch.zeros(order.tokens, order.tokens, dtype=torch.bool)
    _, height, width = order.grid

    def tile_of(token: int) -> list[int]:
        where = (token // (height * width), token // width % height, token % width)
        return [at // side for at, side in zip(where, order.tile or (), strict=True)]

    for query in range(order.tokens):
        for key in range(order.tokens):
            wanted[query, key] = all(
                begin <= at < begin + wide
                for begin, at, wide in (
                    (min(max(own - wide // 2, 0), max(count - wide, 0)), at, wide)
                    for own, at, wide, count in zip(tile_of(query), tile_of(key), window, tiles, strict=True)
                )
            )
    return wanted


@pytest.mark.parametrize(
    ("grid", "tile", "window"),
    [((4, 6, 8), (2, 2, 2), (1, 3, 3)), ((6, 6, 4), (2, 3, 2), (3, 1, 9)), ((3, 5, 7), (2, 2, 2), (1, 2, 3))],
)
def test_sliding_tiles_are_the_window_of_every_token(grid: Grid, tile: Grid, window: Grid) -> None:
    order = tiled(grid, tile)
    mask = SlidingTile(windows=(window,)).mask(plain(order), range(1))[0]
    block_S = order.place_S // order.rows
    assert torch.equal(mask[block_S][:, block_S], sliding_oracle(order, window))


def test_sliding_tiles_in_several_blocks_each() -> None:
    order = tiled((4, 6, 8), (2, 2, 4))
    whole = SlidingTile(windows=((1, 3, 1),)).mask(plain(order), range(1))
    parts = SlidingTile(windows=((1, 3, 1),)).mask(plain(order, query_rows=8, key_rows=4), range(1))
    assert torch.equal(parts, whole.repeat_interleave(2, dim=1).repeat_interleave(4, dim=2))


def test_heads_have_their_own_windows() -> None:
    windows = ((1, 1, 1), (3, 1, 1), (1, 3, 3))
    blocking = plain(tiled((6, 6, 6), (2, 2, 2)))
    mask = SlidingTile(windows=windows).mask(blocking, range(1, 3))
    assert mask.sum(-1).amax(1).tolist() == [3, 9]
    assert mask.sum(-1).amin(1).tolist() == [3, 9]  # whole boxes at the edges too
    with pytest.raises(ValueError, match="there are 3 windows, and heads 2 to 3"):
        SlidingTile(windows=windows).mask(blocking, range(2, 4))


def test_sliding_tiles_refuse_blocks_that_are_no_tiles() -> None:
    with pytest.raises(ValueError, match="take an order of tiles"):
        SlidingTile(windows=((1, 1, 1),)).mask(plain(curve((2, 4, 4), 16)), range(1))
    with pytest.raises(ValueError, match="blocks of 6 rows do not divide tiles of 8"):
        SlidingTile(windows=((1, 1, 1),)).mask(plain(tiled((2, 4, 4), (2, 2, 2)), query_rows=6), range(1))
    with pytest.raises(ValueError, match="boxes of at least one tile"):
        SlidingTile(windows=((0, 1, 1),))


@pytest.mark.parametrize("order", [frame_major((9, 4, 5), 16), curve((9, 4, 5), 16), tiled((9, 4, 5), CUBE)])
@pytest.mark.parametrize(("reach", "references"), [(0, 2), (1, 0), (0, 20)])
def test_frame_diagonal_sees_own_and_reference_frames(order: TokenOrder, reach: int, references: int) -> None:
    mask = FrameDiagonal(reach=reach, references=references).mask(plain(order), range(4))[0]
    chosen = {0: set(), 2: {0, 4}, 20: set(range(9))}[references]
    inside = members(order, order.rows)
    for a, queries in enumerate(inside):
        for b, keys in enumerate(inside):
            frames_q, frames_k = ({at[0] for at in part} for part in (queries, keys))
            # Blocks are boxes to a pattern: from the first frame that they touch to the last.
            near = min(frames_k, default=99) - reach <= max(frames_q, default=-99) and min(
                frames_q, default=99
            ) - reach <= max(frames_k, default=-99)
            refers = any(min(frames_k, default=99) <= frame <= max(frames_k, default=-99) for frame in chosen)
            assert bool(mask[a, b]) == (near or refers)


def test_stripes_differ_from_head_to_head_and_cover_all_keys_together() -> None:
    blocking = plain(frame_major((8, 4, 5), 10))
    mask = Stripes(reach=1, every=4).mask(blocking, range(2, 6))
    for head in range(4):
        for a in range(16):
            for b in range(16):
                assert bool(mask[head, a, b]) == (abs(a - b) <= 1 or b % 4 == (head + 2) % 4)
    assert mask.any(0).all()


def test_block_diagonal_groups_attend_themselves_alone() -> None:
    blocking = plain(frame_major((8, 4, 5), 10), key_rows=5)
    mask = BlockDiagonal(blocks=3).mask(blocking, range(1))[0]
    for a in range(16):
        for b in range(32):
            assert bool(mask[a, b]) == (a // 3 == b // 6)


PATTERNS: list[tuple[Pattern, TokenOrder]] = [
    (Radial(), frame_major((5, 9, 9), 32)),
    (SlidingTile(windows=((1, 1, 1),)), tiled((5, 9, 9), CUBE)),
    (FrameDiagonal(references=0), curve((5, 9, 9), 64)),
    (Stripes(reach=0, every=50), curve((5, 9, 9), 64)),
    (BlockDiagonal(blocks=2), tiled((5, 9, 9), (1, 8, 16))),
]


@pytest.mark.parametrize(("pattern", "order"), PATTERNS, ids=lambda part: type(part).__name__)
def test_lists_hold_what_is_kept_and_no_row_is_empty(pattern: Pattern, order: TokenOrder) -> None:
    policy = SparsityPolicy(method=SparseMethod.BLOCK_DIAGONAL, first_frame=True, neighbours=1)
    scene = Scene.of(order, policy)
    lists = FixedRouter(pattern).route(NOTHING, NOTHING, NOTHING, scene, layer=0, heads=range(3))
    keys = scene.blocking.keys
    lists.check(keys.count)
    mask = lists.mask(keys.count)
    inside = members(order, order.rows)
    for a in range(len(inside)):
        assert int(lists.count_BNQ[0, :, a].min()) > 0
        for b, tokens in enumerate(inside):
            if tokens and (abs(a - b) <= 1 or any(at[0] == 0 for at in tokens)):
                assert mask[0, :, a, b].all()
            if not tokens:
                assert not mask[0, :, a, b].any()
    assert (lists.query_rows, lists.key_rows) == (order.rows, order.rows)
    assert (lists.length_G is None) == (order.length_T is None)


def test_another_window_gets_its_own_lists_and_the_same_one_the_same() -> None:
    router = FixedRouter(BlockDiagonal(blocks=2))
    policy = SparsityPolicy(method=SparseMethod.BLOCK_DIAGONAL)
    small, large = (Scene.of(frame_major(grid, 16), policy) for grid in ((2, 4, 4), (4, 4, 8)))

    def lists(scene: Scene) -> Tensor:
        return router.route(NOTHING, NOTHING, NOTHING, scene, layer=0, heads=range(2)).count_BNQ

    first = lists(small)
    assert lists(large).shape[2] == 8
    assert lists(small.at(policy, 0.5)) is first
    for _ in range(6):
        lists(Scene.of(frame_major((2, 4, 4), 16), policy))
    assert lists(small) is not first  # only the latest windows are kept
    assert torch.equal(lists(small), first)


def test_a_scene_counts_blocks_that_have_tokens() -> None:
    policy = SparsityPolicy(densities=(0.5, 0.2), dense_share=0.0)
    scene = Scene.of(frame_major((10, 4, 4), 16), policy, 0.0)
    assert (scene.count, scene.at(policy, 0.6).count) == (5, 2)
    assert Scene.of(frame_major((10, 4, 4), 16), SparsityPolicy(densities=(0.01,))).count == 1
    blocking = Blocking.of(tiled((3, 1, 1), (2, 1, 1)), key_rows=1)
    assert blocking.key_blocks == 3
    assert Scene.of(frame_major((10, 4, 4), 16), SparsityPolicy(mass=0.9)).count is None
    with pytest.raises(ValueError, match="exactly one must be given"):
        Scene(blocking=blocking)


def test_kept_blocks_are_those_of_the_first_frame_and_beside_the_query() -> None:
    order = curve((4, 6, 6), 16)
    inside = members(order, 8)
    keep = Blocking.of(order, key_rows=8, first_frame=True, neighbours=1).keep_QG
    for a in range(9):
        for b, tokens in enumerate(inside):
            beside = 2 * a - 1 <= b <= 2 * a + 2
            assert bool(keep[a, b]) == (beside or any(at[0] == 0 for at in tokens))
    assert not Blocking.of(order, first_frame=False, neighbours=-1).keep_QG.any()
    through = Blocking.of(tiled((4, 6, 6), (4, 2, 2)), neighbours=-1)  # tiles of all frames
    assert (through.most_kept, through.kept_share) == (9, 1.0)
    apart = Blocking.of(frame_major((4, 6, 6), 36), neighbours=-1)
    assert (apart.most_kept, apart.kept_share) == (1, 0.25)
    padded = Blocking.of(tiled((3, 1, 1), (2, 1, 1)), key_rows=1)
    assert padded.keep_QG[:, :3].any(0).all()
    assert not padded.keep_QG[:, 3].any()  # padding only
