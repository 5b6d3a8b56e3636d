"""Which tokens of a window a rank holds: of every latent frame, a range of its places.

A place is one of the h x w token positions of a latent frame. Every rank holds every frame, so timesteps per frame stay
aligned with groups of tokens. Shape suffixes: B batch, S tokens, C channels, T latent frames,
P places.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from reelray.proto.errors import SizeError


def split_evenly(count: int, parts: int) -> tuple[range, ...]:
    """Cut `range(count)` into consecutive parts; the first ones get one more, as `torch.tensor_split` does."""
    base, extra = divmod(count, parts)
    ends = list(accumulate((base + (part < extra) for part in range(parts)), initial=0))
    return tuple(range(start, end) for start, end in pairwise(ends))


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSplit:
    """The split of one window over ring x ulysses ranks, numbered row by row.

    Args:
        frames: Latent frames of the window.
        places: Tokens of one latent frame.
        ring: Ranks that pass keys and values around; each step of the ring is one block of places.
        ulysses: Ranks that share a block.
        index: This rank among ring x ulysses.

    Raises:
        SizeError: There are fewer places than ranks.
    """

    frames: int
    places: int
    ring: int = 1
    ulysses: int = 1
    index: int = 0

    def __post_init__(self) -> None:
        if self.places < self.ranks:
            raise SizeError(
                f"a latent frame of {self.places} tokens cannot be shared by {self.ranks} ranks; ask for a larger "
                "picture or fewer ranks"
            )

    @property
    def ranks(self) -> int:
        """Ranks that share the window."""
        return self.ring * self.ulysses

    @property
    def shares(self) -> tuple[range, ...]:
        """Places of every rank."""
        return split_evenly(self.places, self.ranks)

    @property
    def block_places(self) -> tuple[int, ...]:
        """How many places each rank of this rank's block holds."""
        first = self.index - self.index % self.ulysses
        return tuple(len(share) for share in self.shares[first : first + self.ulysses])

    @property
    def ring_places(self) -> tuple[int, ...]:
        """How many places every block of the ring has."""
        return tuple(tokens // self.frames for tokens in self.block_tokens)

    @property
    def block_tokens(self) -> tuple[int, ...]:
        """Tokens of every block of the ring."""
        shares = self.shares
        blocks = (shares[first : first + self.ulysses] for first in range(0, self.ranks, self.ulysses))
        return tuple(self.frames * (block[-1].stop - block[0].start) for block in blocks)

    def take(self, tokens_BSC: Tensor) -> Tensor:
        """Cut this rank's tokens out of all tokens of the window.

        Raises:
            ValueError: The tokens are not those of this window.
        """
        if tokens_BSC.shape[1] != self.frames * self.places:
            raise ValueError(f"{tokens_BSC.shape[1]} tokens are not {self.frames} frames of {self.places} places")
        if self.ranks == 1:
            return tokens_BSC
        share = self.shares[self.index]
        cells_BTPC = torch.unflatten(tokens_BSC, 1, (self.frames, self.places))
        return cells_BTPC[:, :, share.start : share.stop].flatten(1, 2)

    def join(self, shares_BSC: Sequence[Tensor]) -> Tensor:
        """Put the tokens of all ranks, in the order of the ranks, together to those of the window."""
        cells_BTPC = [torch.unflatten(share_BSC, 1, (self.frames, -1)) for share_BSC in shares_BSC]
        return torch.cat(cells_BTPC, dim=2).flatten(1, 2)
