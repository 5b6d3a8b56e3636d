"""Which rows of a picture each rank has."""

from dataclasses import dataclass
from typing import Self

from reelray.proto.errors import SizeError

# Two rows serve both convolutions of a residual block with one exchange; a third would be of no use, because the
# block's straight path keeps the margins it came with.
WIDEST = 2


def split_rows(latent_rows: int, ranks: int) -> tuple[int, ...]:
    """Latent rows of each rank: as even as can be, the first ranks one more.

    Raises:
        SizeError: If a rank would have none.
    """
    if latent_rows < ranks:
        raise SizeError(f"{latent_rows} latent rows over {ranks} ranks: each rank needs at least 1")
    least, more = divmod(latent_rows, ranks)
    return tuple(least + (rank < more) for rank in range(ranks))


@dataclass(frozen=True, kw_only=True, slots=True)
class RowSplit:
    """Who has which rows of a picture, at every scale.

    Args:
        counts: Latent rows of each rank, from top to bottom.
        width: Rows of a margin, the same at every scale.
    """

    counts: tuple[int, ...]
    width: int

    @classmethod
    def make(cls, latent_rows: int, ranks: int, width: int | None = None) -> Self:
        """Deal out rows.

        Args:
            latent_rows: Height of the picture in latents.
            ranks: Ranks that share it.
            width: Rows of a margin, 1 or 2; None means 2 if every rank has two latent rows.

        Raises:
            SizeError: If there are fewer latent rows than ranks, or a rank has fewer than `width`.
        """
        counts = split_rows(latent_rows, ranks)
        most = min(WIDEST, *counts)
        width = most if width is None else width
        if not 1 <= width <= most:
            raise SizeError(f"margins of {width} rows: allowed are 1 to {most}")
        return cls(counts=counts, width=width)

    def own(self, index: int, scale: int) -> range:
        """Rows that a rank owns, at `scale` rows per latent row."""
        first = sum(self.counts[:index])
        return range(first * scale, (first + self.counts[index]) * scale)

    def held(self, index: int, scale: int) -> range:
        """Rows that a rank holds: its own and the margins."""
        own, above, below = self.own(index, scale), self.above(index), self.below(index)
        return range(own.start - above, own.stop + below)

    def above(self, index: int) -> int:
        """Rows of the margin above a rank's own."""
        return self.width if index > 0 else 0

    def below(self, index: int) -> int:
        """Rows of the margin below a rank's own."""
        return self.width if index < len(self.counts) - 1 else 0
