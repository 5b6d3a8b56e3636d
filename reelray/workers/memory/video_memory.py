"""The memory of one video: what its regions name, in pages of a shared pool.

Shape suffixes: S tokens, N heads, D head width, P rotated pairs of a head.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor

from reelray.proto.storage import Storage
from reelray.workers.memory.host_pages import HostPages
from reelray.workers.memory.memory_state import as_plain, from_plain, read_regions, write_regions
from reelray.workers.memory.parking import Parked
from reelray.workers.memory.pool import PagePool
from reelray.workers.memory.regions import Change, Drop, Entry, Fold, Frame, Regions
from reelray.workers.memory.transfers import Transfer
from reelray.workers.memory.workspace import Staging, Workspace

Angles: TypeAlias = tuple[Tensor, Tensor]
"""Cosines and sines [1, S, P] of the tokens of some latent frames."""


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
        self._parked: Parked[Entry] | None = None
        self._arrival = Transfer()
        self.most_pages = self._promised = pool.pages_for(places) * regions.most
        pool.promise(self._promised)

    @property
    def held_bytes(self) -> int:
        """Bytes of the pages that are held now."""
        return sum(map(len, self._held.values())) * self._pool.page_bytes

    @property
    def is_parked(self) -> bool:
        """Whether it lies in host memory."""
        return self._parked is not None

    def lay_out(self, workspace: Workspace, entries: Sequence[Entry], angles: Angles | None) -> int:
        """Fill a workspace with what the next window attends.

        Args:
            workspace: Is overwritten.
            entries: Of those that are held.
            angles: Of the entries' tokens, in their order; None where there are none.

        Returns:
            Tokens laid down.
        """
        if angles is None:
            return 0
        count = len(entries) * self._places
        frames = [self._held[entry] for entry in entries]
        self._pool.lay_out(frames, self._places, workspace.tokens(count), angles)
        return count

    def commit(self, staging: Staging, first: int, length: int) -> None:
        """Take in a window's frames from what its forward left."""
        count = self._pool.pages_for(self._places)
        frames = [Frame(index=first + number) for number in range(length)]
        for frame in frames:
            self._held[frame] = self._pool.take(count)  # held at once: whatever fails from here on, they are given back
        room_L2SND = staging.tokens(slice(0, length * self._places))
        self._pool.take_in([self._held[frame] for frame in frames], self._places, room_L2SND)
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

    def park(self, host: HostPages) -> None:
        """Bring everything to host memory and give back pages and promise; `wake` comes before anything else.

        Raises:
            ResourceError: There is no room for it there; nothing has changed.
        """
        self._arrival.wait()  # it may have come back just now
        self._parked = Parked(self._held, self._pool.arena, host)
        self._give_back()

    def prefetch(self) -> None:
        """Have pages again and begin to fill them.

        Raises:
            ResourceError: The pool cannot promise so many; nothing has changed.
        """
        assert self._parked is not None
        self._pool.promise(self.most_pages)
        self._promised = self.most_pages
        self._held, self._arrival = self._parked.fetch(self._pool.take)
        self._parked = None

    def wake(self) -> None:
        """Let later work of the device find what `prefetch` has begun to bring."""
        assert self._parked is None
        self._arrival.wait()
        self._arrival = Transfer()

    def write(self) -> dict[str, Any]:
        """All of it as plain values and tensors on the CPU; see `read`.

        Keys and values themselves, so that ranks which share the heads otherwise can take them; of pages in 8 bits
        their bytes, because to make them of values again would change them.
        """
        entries, layers, pages = list(self._held), [], None
        if self.regions.rule.storage is not Storage.EXACT:
            pages = self._pool.show([page for held in self._held.values() for page in held])
        elif entries:
            reader = self._pool.reader([self._held[entry] for entry in entries], self._places)
            layers = [[part_SND.cpu() for part_SND in reader(layer)] for layer in range(self._pool.shape.layers)]
        regions = write_regions(self.regions)
        return {"regions": regions, "entries": as_plain(entries), "layers": layers, "pages": pages}

    def read(self, state: Mapping[str, Any]) -> None:
        """Take in what `write` wrote, into a memory that is empty.

        Args:
            state: With the heads that are here.

        Raises:
            UnsupportedError: It has bytes of pages of other heads.
        """
        read_regions(self.regions, state["regions"])
        count = self._pool.pages_for(self._places)
        entries = from_plain(state["entries"])
        for entry in entries:
            self._held[entry] = self._pool.take(count)
        if state["pages"] is not None:
            self._pool.fill([page for held in self._held.values() for page in held], state["pages"])
        elif entries:
            writer = self._pool.writer([self._held[entry] for entry in entries], self._places)
            for layer, (keys_SND, values_SND) in enumerate(state["layers"]):
                writer(layer, keys_SND.to(self._pool.device), values_SND.to(self._pool.device))
        self.version += 1

    def close(self) -> None:
        """Give everything back; may be called twice."""
        self._give_back()
        if self._parked is not None:
            self._parked.close()
        self._parked = None

    def _give_back(self) -> None:
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
        # The old pages may be shared, so the result needs others; they come from what was promised for one fold more.
        old, pages = self._held[fold.old], self._pool.take(len(new))
        self._held[fold.into] = pages
        writer = self._pool.writer([pages], self._places)
        readers = [self._pool.reader([part], self._places) for part in (old, new)]
        for layer in range(self._pool.shape.layers):
            mixed = [
                torch.lerp(new_SND.float(), old_SND.float(), fold.kept)
                for old_SND, new_SND in zip(*(reader(layer) for reader in readers), strict=True)
            ]
            writer(layer, *mixed)
        self._pool.drop(self._held.pop(fold.old))
