"""The memory of one video: what its regions name, in pages of a shared pool.

Shape suffixes: S tokens, N heads, D head width.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Self, TypeAlias

import torch
from torch import Tensor

from reelray.workers.memory.pool import PagePool
from reelray.workers.memory.regions import Change, Drop, Entry, Fold, Frame, Regions
from reelray.workers.memory.workspace import Staging, Workspace

Turn: TypeAlias = Callable[[Tensor, Sequence[int]], Tensor]
"""Rotates the keys [S, N, D] of some latent frames to their temporal positions."""


class VideoMemory:
    """Keys and values that a video remembers; everything it may ever need is promised to it at the start.

    Args:
        regions: What is remembered.
        pool: Where.
        places: Tokens of a latent frame.

    Raises:
        ResourceError: The pool cannot promise so many pages.
    """

    def __init__(self, regions: Regions, pool: PagePool, places: int) -> None:
        self.regions = regions
        self.version = 0
        self._pool = pool
        self._places = places
        self._held: dict[Entry, tuple[int, ...]] = {}
        self._promised = pool.pages_for(places) * regions.most
        pool.promise(self._promised)

    @property
    def held_bytes(self) -> int:
        """Bytes of the pages that are held now."""
        return sum(map(len, self._held.values())) * self._pool.page_bytes

    def lay_out(self, workspace: Workspace, turn: Turn, first: int, length: int) -> int:
        """Fill a workspace with what the next window attends.

        Args:
            workspace: Is overwritten.
            turn: Of the model.
            first: First latent frame of the window.
            length: Its latent frames.

        Returns:
            Tokens laid down.
        """
        entries = self.regions.attended
        positions, _ = self.regions.positions(first, length)
        for layer in range(self._pool.shape.layers):
            parts = [self._pool.read(self._held[entry], layer, self._places) for entry in entries]
            if parts:
                keys_SND, values_SND = (torch.cat(part) for part in zip(*parts, strict=True))
                workspace.put(layer, 0, turn(keys_SND, positions), values_SND)
        return len(entries) * self._places

    def commit(self, staging: Staging, first: int, length: int) -> None:
        """Take in a window's frames from what its forward left."""
        for number in range(length):
            pages = self._pool.take(self._pool.pages_for(self._places))
            tokens = slice(number * self._places, (number + 1) * self._places)
            for layer in range(self._pool.shape.layers):
                self._pool.write(pages, layer, *staging.tokens(layer, tokens))
            self._held[Frame(index=first + number)] = pages
        for change in self.regions.commit(first, length):
            self._carry_out(change)
        self.version += 1

    def rewind(self, first: int) -> None:
        """See `Regions.rewind`."""
        self._drop(self.regions.rewind(first))

    def flush(self, keep: int) -> None:
        """See `Regions.flush`."""
        self._drop(self.regions.flush(keep))

    def fork(self) -> Self:
        """A memory that goes its own way from here; pages are shared as long as both hold them.

        Raises:
            ResourceError: The pool cannot promise so many pages.
        """
        other = type(self)(self.regions.copy(), self._pool, self._places)
        other.share(self._held)
        return other

    def share(self, held: Mapping[Entry, tuple[int, ...]]) -> None:
        """Hold entries of another memory too."""
        for entry, pages in held.items():
            self._pool.hold(pages)
            self._held[entry] = pages

    def close(self) -> None:
        """Give everything back; may be called twice."""
        for pages in self._held.values():
            self._pool.drop(pages)
        self._held.clear()
        self._pool.promise(-self._promised)
        self._promised = 0

    def _drop(self, drops: Sequence[Drop]) -> None:
        for drop in drops:
            self._carry_out(drop)
        self.version += 1

    def _carry_out(self, change: Change) -> None:
        if isinstance(change, Drop):
            self._pool.drop(self._held.pop(change.entry))
            return
        self._fold(change)

    def _fold(self, fold: Fold) -> None:
        new = self._held[fold.new]
        if fold.old is None:
            self._pool.hold(new)
            self._held[fold.into] = new
            return
        old = self._held.pop(fold.old)
        # The old pages may be shared, and the new ones come from what was promised for the frame that leaves.
        pages = self._pool.take(len(new))
        for layer in range(self._pool.shape.layers):
            mixed = [
                torch.lerp(new_SND.float(), old_SND.float(), fold.kept)
                for old_SND, new_SND in zip(
                    self._pool.read(old, layer, self._places), self._pool.read(new, layer, self._places), strict=True
                )
            ]
            self._pool.write(pages, layer, *mixed)
        self._pool.drop(old)
        self._held[fold.into] = pages
