"""The rows beyond a rank's own, when the rows of a picture are divided among ranks.

The maths calls a `Margin` where it reaches beyond a row; a whole picture has none, and then every call returns what it
was given. Activations carry `width` rows more than the rank's own on each side that has a neighbour. A 3x3 computes all
rows and makes the outermost one of each margin untrue, because it saw zeros where the neighbour has values; when none
is true any more, the neighbours' rows are fetched again. At the picture's own border there is no margin, and the
convolution's zero padding is what it always was.

Shapes: B batch, C channels, T frames, H/W height/width, F = B·T.
"""

from typing import Protocol

from torch import Tensor

WIDEST = 2


class RowExchange(Protocol):
    """How a rank gets at rows of other ranks. All ranks of a picture must make the same calls in the same order."""

    @property
    def width(self) -> int:
        """Rows of a margin: 1 or 2."""

    @property
    def above(self) -> int:
        """Rows of the margin above: `width`, or 0 at the top of the picture."""

    @property
    def below(self) -> int:
        """Rows of the margin below: `width`, or 0 at the bottom of the picture."""

    def refresh(self, x: Tensor, dim: int) -> None:
        """Overwrite the margins of `x` along `dim` with the neighbours' own rows."""

    def gather(self, own: Tensor, dim: int) -> Tensor:
        """All ranks' own rows along `dim`, in order: the whole picture, on every rank."""

    def first_row(self, own_rows: int) -> int:
        """Row of the whole picture where this rank begins, at the scale at which it owns `own_rows`."""


class Margin:
    """What is true in the margins during one pass through the network.

    Between the two convolutions of a residual block the margins may be fetched anew, while the straight path keeps
    its old ones. With at most two rows the sum never claims more true rows than the straight path has: a block that
    begins with 0, 1 or 2 ends with 0, 1 or 0.

    Args:
        exchange: None for a whole picture.
        dim: Dimension of the rows.
        channels_last: Whether a (B, C, T, H, W) tensor has its channels innermost in memory.
    """

    def __init__(self, exchange: RowExchange | None, *, dim: int, channels_last: bool = False) -> None:
        assert exchange is None or 1 <= exchange.width <= WIDEST
        self._exchange = exchange
        self._dim = dim
        self._permuted = channels_last and dim == 3
        self._true = 0 if exchange is None else exchange.width

    def before_3x3(self, x: Tensor) -> Tensor:
        """Have at least one true row in each margin of `x`, in place; one fewer is true afterwards."""
        if self._exchange is not None:
            if self._true == 0:
                self._exchange.refresh(*self._in_memory_order(x))
                self._true = self._exchange.width
            self._true -= 1
        return x

    def before_enlarging(self, x: Tensor) -> Tensor:
        """Cut the margins to the one row that the 3x3 after doubling H can use; call `before_3x3` earlier."""
        if self._exchange is None:
            return x
        return self._cut(x, self._exchange.above - min(self._exchange.above, 1), self._surplus_below())

    def after_enlarging(self, x: Tensor) -> Tensor:
        """Cut the two rows that came out of one to the margins' width. The inner one is true."""
        if self._exchange is None:
            return x
        self._true = 1
        surplus = WIDEST - self._exchange.width
        above, below = (surplus if rows else 0 for rows in (self._exchange.above, self._exchange.below))
        return self._dense(self._cut(x, above, below)) if above or below else x

    def before_halving(self, x: Tensor) -> Tensor:
        """Cut to the own rows and one below, which is what a strided 3x3 sees; call `before_3x3` earlier."""
        return x if self._exchange is None else self._cut(x, self._exchange.above, self._surplus_below())

    def after_halving(self, x: Tensor) -> Tensor:
        """Put margins around own rows; nothing in them is true."""
        if self._exchange is None:
            return x
        self._true = 0
        inner, dim = self._in_memory_order(x)
        shape = list(inner.shape)
        shape[dim] += self._exchange.above + self._exchange.below
        wide = inner.new_zeros(shape)
        wide.narrow(dim, self._exchange.above, inner.shape[dim]).copy_(inner)
        return self._in_given_order(wide)

    def whole(self, x: Tensor) -> tuple[Tensor, Tensor, slice]:
        """Rows of all ranks, for layers that see a whole frame.

        Returns:
            The whole picture; `x` with true margins; and the rows of the whole picture that `x` holds.
        """
        if self._exchange is None:
            return x, x, slice(0, x.shape[self._dim])
        own, dim = self._in_memory_order(self.own(x))
        whole = self._exchange.gather(own, dim)
        first = self._exchange.first_row(own.shape[dim]) - self._exchange.above
        held = slice(first, first + x.shape[self._dim])
        self._true = self._exchange.width
        mine = whole.narrow(dim, held.start, held.stop - held.start).contiguous()
        return self._in_given_order(whole), self._in_given_order(mine), held

    def own(self, x: Tensor) -> Tensor:
        """`x` without its margins, a view."""
        return x if self._exchange is None else self._cut(x, self._exchange.above, self._exchange.below)

    def _surplus_below(self) -> int:
        assert self._exchange is not None
        return self._exchange.below - min(self._exchange.below, 1)

    def _cut(self, x: Tensor, above: int, below: int) -> Tensor:
        return x.narrow(self._dim, above, x.shape[self._dim] - above - below)

    def _dense(self, x: Tensor) -> Tensor:
        return self._in_given_order(self._in_memory_order(x)[0].contiguous())

    def _in_memory_order(self, x: Tensor) -> tuple[Tensor, int]:
        """A view whose last dimension is innermost, and where its rows are: copies of rows are then whole runs."""
        return (x.permute(0, 2, 3, 4, 1), 2) if self._permuted else (x, self._dim)

    def _in_given_order(self, x: Tensor) -> Tensor:
        return x.permute(0, 4, 1, 2, 3) if self._permuted else x
