"""Videos that rest: what they remember lies in host memory until they go on."""

from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor

from reelray.workers.memory.arena import Arena
from reelray.workers.memory.host_pages import HostPages
from reelray.workers.memory.pool import PagePool
from reelray.workers.memory.transfers import Transfer

Name = TypeVar("Name", bound=Hashable)
Pages = tuple[int, ...]


class Parked(Generic[Name]):
    """Copies of pages in host memory.

    Args:
        held: Pages by name; they may be dropped as soon as this is made.
        arena: Where they lie.
        host: Where the copies go.

    Raises:
        ResourceError: There is no host memory for them; nothing is copied.
    """

    def __init__(self, held: Mapping[Name, Pages], arena: Arena, host: HostPages) -> None:
        self._arena, self._host = arena, host
        self._copies = self._take(held)
        places = [place for pages in held.values() for place in arena.places(pages)]
        sources = [arena.storage_PX[place] for place in places]
        arena.transfers.begin(zip(self._rows(), sources, strict=True))

    def copy(self) -> "Parked[Name]":
        """The same once more.

        Raises:
            ResourceError: There is no host memory for it.
        """
        other: Parked[Name] = Parked({}, self._arena, self._host)
        other._copies = self._take(self._copies)
        self._arena.transfers.last.finish()
        for target_X, source_X in zip(other._rows(), self._rows(), strict=True):
            target_X.copy_(source_X)
        return other

    def _take(self, like: Mapping[Name, Pages]) -> dict[Name, Pages]:
        """Host pages for entries that have so many."""
        taken = list(self._host.take(sum(map(len, like.values()))))
        return {name: tuple(taken.pop() for _ in pages) for name, pages in like.items()}

    def _rows(self) -> list[Tensor]:
        return self._host.rows([page for pages in self._copies.values() for page in pages])

    def fetch(self, take: Callable[[int], Pages]) -> tuple[dict[Name, Pages], Transfer]:
        """Begin to bring all of it back, once; the host's copies are given up.

        Args:
            take: Takes pages, which were promised.
        """
        held = {name: take(len(copies)) for name, copies in self._copies.items()}
        places = [place for pages in held.values() for place in self._arena.places(pages)]
        targets = [self._arena.storage_PX[place] for place in places]
        arrival = self._arena.transfers.begin(zip(targets, self._rows(), strict=True))
        self.close()
        return held, arrival

    def show(self, pool: PagePool) -> tuple[PagePool, dict[Name, Pages]]:
        """All of it on pages of the host's that can be read like others; what rests goes on resting.

        Args:
            pool: Whose pages they were.
        """
        rows = self._rows()
        self._arena.transfers.last.finish()
        arena = Arena(page_bytes=self._arena.page_bytes, pages=max(1, len(rows)), device=torch.device("cpu"))
        shown = PagePool(arena, pool.shape, pool.storage)
        held = {name: shown.take(len(pages)) for name, pages in self._copies.items()}
        places = [place for pages in held.values() for place in shown.arena.places(pages)]
        for place, row_X in zip(places, rows, strict=True):
            shown.arena.storage_PX[place].copy_(row_X)
        return shown, held

    def close(self) -> None:
        """Give the host's memory back; may be called twice."""
        for copies in self._copies.values():
            self._host.drop(copies)
        self._copies.clear()
