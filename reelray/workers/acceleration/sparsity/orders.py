"""Picks the order of a window's tokens."""

from reelray.proto.sparsity import TokenOrderKind
from reelray.workers.acceleration.sparsity.curve import curve
from reelray.workers.acceleration.sparsity.tilings import CUBE, PATCH, exact_tile, frame_major, tiled
from reelray.workers.acceleration.sparsity.token_order import Grid, TokenOrder

SLACK = 0.125
"""Share of the tokens that tiles may have fewer to be more compact: long ones reach through all frames, and where the
first frame is always attended, so is all that shares a tile with it."""


def make_order(kind: TokenOrderKind, grid: Grid, rows: int) -> TokenOrder:
    """Make an order on the CPU; who asks keeps it, as a large grid takes some tenths of a second.

    Args:
        kind: Which; `AUTO` takes the curve.
        grid: Frames, rows and columns of tokens.
        rows: Most tokens of a block; patches and cubes have their own.
    """
    match kind:
        case TokenOrderKind.FRAMES:
            return frame_major(grid, rows)
        case TokenOrderKind.TILES:
            return tiled(grid, exact_tile(grid, rows, SLACK))
        case TokenOrderKind.CURVE | TokenOrderKind.AUTO:
            return curve(grid, rows)
        case TokenOrderKind.PATCHES:
            return tiled(grid, PATCH)
        case TokenOrderKind.CUBES:
            return tiled(grid, CUBE)


class Orders:
    """Makes each order once. An engine keeps one of these, so that nothing is shared between engines."""

    def __init__(self) -> None:
        self._made: dict[tuple[TokenOrderKind, Grid, int, str], TokenOrder] = {}

    def order(self, kind: TokenOrderKind, grid: Grid, rows: int, device: str = "cpu") -> TokenOrder:
        """See `make_order`; the same object for the same arguments."""
        key = (kind, grid, rows, str(device))
        if key not in self._made:
            self._made[key] = make_order(kind, grid, rows).to(device)
        return self._made[key]
