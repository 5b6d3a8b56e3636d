"""Who has which tokens and which heads of a window that several ranks share.

Shape suffixes: B batch, S tokens of this rank, K all tokens, N heads, D head width.
"""

from dataclasses import dataclass
from functools import cache
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """A window over ranks, before and after the exchange.

    Before, each rank has its places of every latent frame and all heads; after, all tokens and its heads.

    Args:
        frames: Latent frames of the window.
        places: Places of a latent frame that each rank has.
        heads: Heads of each rank; together all heads, in order.
        index: This rank.
    """

    frames: int
    places: tuple[int, ...]
    heads: tuple[range, ...]
    index: int

    @property
    def ranks(self) -> int:
        """Who shares it."""
        return len(self.places)

    @property
    def all_heads(self) -> int:
        """Of all ranks."""
        return self.heads[-1].stop

    @property
    def mine(self) -> range:
        """Heads of this rank."""
        return self.heads[self.index]

    @property
    def all_places(self) -> int:
        """Of a latent frame."""
        return sum(self.places)

    @property
    def first_places(self) -> tuple[int, ...]:
        """First place of each rank, and the number of all."""
        return tuple(accumulate(self.places, initial=0))

    @property
    def first_heads(self) -> tuple[int, ...]:
        """First head of each rank, and the number of all."""
        return (*(own.start for own in self.heads), self.all_heads)


@cache
def on_device(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """The numbers as int32 on a device, once: a kernel that is recorded reads them again and again."""
    return torch.tensor(numbers, dtype=torch.int32, device=device)
