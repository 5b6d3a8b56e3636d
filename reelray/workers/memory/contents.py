"""What a memory holds, as it goes to ranks that share the heads in another way: names first, then layer by layer.

Shape suffixes: S tokens, N heads, D head width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reelray.workers.memory.entries import Entry
from reelray.workers.memory.memory_state import as_plain, read_regions, take_entries, write_regions
from reelray.workers.memory.pool import PagePool
from reelray.workers.memory.regions import Regions


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """The inside of one video's memory.

    Args:
        regions: What is remembered.
        pool: Where.
        held: Pages of each entry; changed in place.
        places: Tokens of a latent frame.
    """

    regions: Regions
    pool: PagePool
    held: dict[Entry, tuple[int, ...]]
    places: int

    def outline(self) -> dict[str, Any]:
        """Names of what is held, and how many tokens that is; see `adopt`."""
        tokens = len(self.held) * self.places
        return {"regions": write_regions(self.regions), "entries": as_plain(list(self.held)), "tokens": tokens}

    def adopt(self, outline: Mapping[str, Any]) -> None:
        """Be what another rank has outlined; `fill` brings keys and values."""
        read_regions(self.regions, outline["regions"])
        take_entries(self.pool, self.held, self.places, outline)

    def layer(self, layer: int) -> Tensor:
        """Keys, not rotated, and values of all that is held [2, S, N, D], in the order of the outline."""
        return torch.stack(self.pool.reader([*self.held.values()], self.places)(layer))

    def fill(self, layer: int, tokens_2SND: Tensor) -> None:
        """Write what `layer` has shown, of the heads that are here."""
        self.pool.writer([*self.held.values()], self.places)(layer, *tokens_2SND.unbind(0))
