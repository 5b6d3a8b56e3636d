"""The order along a Hilbert curve of any box: every run of it is a compact piece, whatever the grid.

The first frame has a curve of its own before that of the others. It is the one that all attend, and through boxes of
several frames it would take all of their tokens with it: a quarter of the keys in place of a twentieth.

Source: the generalised Hilbert curve of J. Červený, which halves a box along its long sides until it is a line. Jenga
(arXiv 2505.16864) orders the tokens of videos so.
"""

import torch

from reelray.workers.acceleration.sparsity.token_order import Grid, TokenOrder

Side = tuple[int, int]
"""A side of a box: what one step along it adds to a frame-major number, and how many tokens it has."""


def curve(grid: Grid, rows: int) -> TokenOrder:
    """Tokens along the curves, cut into blocks; only the last block may be short.

    Each token is next to the one before it: at most one frame, one row and one column away.

    Args:
        grid: Frames, rows and columns.
        rows: Tokens of a block.

    Raises:
        ValueError: A number is below 1.
    """
    if min(*grid, rows) < 1:
        raise ValueError(f"the grid is {grid} and rows is {rows}; all must be at least 1")
    frames, height, width = grid
    first = _box((1, height, width), 0)
    # Backwards: it ends in the corner where that of the other frames begins.
    rest = _box((frames - 1, height, width), height * width) if frames > 1 else []
    return TokenOrder.of_tokens(grid, rows, torch.tensor(first[::-1] + rest))


def _box(grid: Grid, at: int) -> list[int]:
    """The curve through a box whose corner is the token `at`."""
    frames, height, width = grid
    sides = sorted([(1, width), (width, height), (height * width, frames)], key=lambda side: -side[1])
    numbers: list[int] = []
    _walk(at, sides[0], sides[1], sides[2], numbers)
    return numbers


def _walk(at: int, a: Side, b: Side, c: Side, out: list[int]) -> None:
    """Visit a box from its corner `at` to the corner at the other end of side `a`."""
    long = [side for side in (a, b, c) if side[1] > 1]
    if len(long) <= 1:
        step, count = long[0] if long else a
        out.extend(range(at, at + step * count, step))
    elif 2 * a[1] > 3 * max(b[1], c[1]):
        near, far = _halves(a)
        _walk(at, near, b, c, out)
        _walk(at + _across(near), far, b, c, out)
    elif 3 * b[1] > 4 * c[1]:
        _walk_flat(at, a, b, c, out)
    elif 3 * c[1] > 4 * b[1]:
        _walk_flat(at, a, c, b, out)
    else:
        _walk_round(at, a, b, c, out)


def _walk_flat(at: int, a: Side, b: Side, c: Side, out: list[int]) -> None:
    """Up one half of `a`, along the upper half of `b`, and down again."""
    (near_a, far_a), (near_b, far_b) = _halves(a), _halves(b)
    _walk(at, near_b, c, near_a, out)
    _walk(at + _across(near_b), a, far_b, c, out)
    _walk(at + _last(a) + _last(near_b), _back(near_b), c, _back(far_a), out)


def _walk_round(at: int, a: Side, b: Side, c: Side, out: list[int]) -> None:
    """Through all eight octants, neighbours of which are taken together."""
    (near_a, far_a), (near_b, far_b), (near_c, far_c) = _halves(a), _halves(b), _halves(c)
    _walk(at, near_b, near_c, near_a, out)
    _walk(at + _across(near_b), c, near_a, far_b, out)
    _walk(at + _last(near_b) + _last(c), a, _back(near_b), _back(far_c), out)
    _walk(at + _last(a) + _across(near_b) + _last(c), _back(c), _back(far_a), far_b, out)
    _walk(at + _last(a) + _last(near_b), _back(near_b), near_c, _back(far_a), out)


def _halves(side: Side) -> tuple[Side, Side]:
    """Two parts, the first of an even length where there is room for one: only then do the pieces meet."""
    step, count = side
    near = count // 2
    near += near % 2 and count > 2
    return (step, near), (step, count - near)


def _across(side: Side) -> int:
    return side[0] * side[1]


def _last(side: Side) -> int:
    return side[0] * (side[1] - 1)


def _back(side: Side) -> Side:
    return -side[0], side[1]
