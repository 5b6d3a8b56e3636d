"""The memory of one video: what its regions name, in pages of a shared pool.

Shape suffixes: S tokens, N heads, D head width, P rotated pairs of a head.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reelray.proto.memory_rule import Placement
from reelray.workers.memory.contents import Contents
from reelray.workers.memory.entries import Banked, Change, Drop, Entry, Fold, Frame, Pick, Share
from reelray.workers.memory.host_pages import HostPages
from reelray.workers.memory.memory_state import read_pages, read_regions, write_pages, write_regions
from reelray.workers.memory.page_changes import (
    Rate,
    Turn,
    compare_pages,
    fold_pages,
    lay_out_by_layer,
    pick_pages,
    rate_pages,
)
from reelray.workers.memory.parking import Parked
from reelray.workers.memory.pool import PagePool
from reelray.workers.memory.regions import Regions
from reelray.workers.memory.transfers import Transfer
from reelray.workers.memory.workspace import Staging, Workspace


class VideoMemory:
    """Keys and values that a video remembers; everything it may ever need is promised to it at the start.

    Args:
        regions: What is remembered.
        pool: Where.
        places: Tokens of a latent frame.
        parked: What it remembers, where it begins in host memory; nothing is promised to it there.

    Raises:
        ResourceError: The pool cannot promise so many pages.
    """

    def __init__(self, regions: Regions, pool: PagePool, places: int, parked: Parked[Entry] | None = None) -> None:
        self.regions = regions
        self.version = 0
        self._pool = pool
        self._places = places
        self._held: dict[Entry, tuple[int, ...]] = {}
        self._parked = parked
        self._arrival = Transfer()
        self.most_pages = pool.pages_for(places) * regions.most
        self._promised = self.most_pages if parked is None else 0
        pool.promise(self._promised)

    @property
    def held_bytes(self) -> int:
        """Bytes of the pages that are held now."""
        return sum(map(len, self._held.values())) * self._pool.page_bytes

    @property
    def is_parked(self) -> bool:
        """Whether it lies in host memory."""
        return self._parked is not None

    @property
    def expects_scores(self) -> bool:
        """Whether `settle` has to choose, and does not do it blindly."""
        bank = self.regions.bank
        return bank is not None and bank.due and bank.is_full and not (self.regions.rewound and bank.rule.ties)

    def rate(self, rate: Rate, turn: Turn) -> Tensor:
        """Score what is in the bank: places, layers.

        Args:
            rate: Scores a frame.
            turn: Angles of keys.
        """
        bank = self.regions.bank
        assert bank is not None
        return torch.stack(
            [rate_pages(self._pool, self._places, self._held[one], one.frames, (rate, turn)) for one in bank.kept]
        )

    def settle(self, scores: Sequence[Sequence[float]] | None) -> None:
        """Do what is due before the next window: take in the bank's candidate.

        Args:
            scores: Of what is in the bank, place by place and layer by layer; None lets all score the same.
        """
        bank = self.regions.bank
        if bank is not None and bank.due:
            self._change(bank.take_in(scores or [[0.0] * bank.layers] * len(bank.kept)))

    def compare(self) -> Tensor:
        """Products of the candidate with each frame of an adaptive sink: places, layers, and as `compare_pages`."""
        candidate = self.regions.candidate
        assert candidate is not None
        pairs = [(self._held[one], self._held[candidate]) for one in self.regions.sink]
        return torch.stack([compare_pages(self._pool, self._places, *pair) for pair in pairs])

    def adapt(self, likeness: Sequence[Sequence[float]]) -> None:
        """See `Regions.adapt`."""
        self._change(self.regions.adapt(likeness))

    def lay_out(self, workspace: Workspace, entries: Sequence[Entry], places: Sequence[int], turn: Turn) -> int:
        """Fill a workspace with what the next window attends.

        Args:
            workspace: Is overwritten.
            entries: Of those that are held.
            places: Temporal position of each; a place of a bank stands in each layer where the frame stands that the
                layer keeps there, unless positions are relative.
            turn: Angles of keys.

        Returns:
            Tokens laid down.
        """
        if not entries:
            return 0
        held, count = [self._held[entry] for entry in entries], len(entries) * self._places
        if self.regions.rule.placement is Placement.RELATIVE or not any(isinstance(one, Banked) for one in entries):
            self._pool.lay_out(held, self._places, workspace.tokens(count), turn(places))
        else:
            stands = [_stands(self.regions, *one) for one in zip(entries, places, strict=True)]
            lay_out_by_layer(self._pool, self._places, workspace, [*zip(held, stands, strict=True)], turn)
        return count

    def commit(self, staging: Staging, first: int, length: int) -> None:
        """Take in a window's frames from what its forward left."""
        self._write(staging, range(first, first + length))
        self._change(self.regions.commit(first, length))

    def begin_anew(self) -> None:
        """See `Regions.begin_anew`."""
        self._change(self.regions.begin_anew())

    def commit_again(self, staging: Staging, frames: Sequence[int]) -> None:
        """Take in frames of a memory that has begun anew, from what their forward left."""
        self._write(staging, frames)
        self.regions.commit_again(frames)
        self.version += 1

    def rewind(self, first: int) -> None:
        """See `Regions.rewind`."""
        self._change(self.regions.rewind(first))

    def flush(self, keep: int) -> None:
        """See `Regions.flush`."""
        self._change(self.regions.flush(keep))

    def fork(self, host: HostPages | None = None) -> "VideoMemory":
        """A memory that goes its own way from here; of one that rests a copy in host memory, which rests too.

        Args:
            host: Where the other one is to rest; None has it awake if this one is.

        Pages are shared as long as both hold them, for nobody writes to a page once it is filled. What is promised is
        all that the other one may need when nothing is shared any more.

        Raises:
            ResourceError: The pool cannot promise so many pages, or there is no host memory.
        """
        regions = self.regions.copy()
        if self._parked is not None:
            return VideoMemory(regions, self._pool, self._places, self._parked.copy())
        self._arrival.wait()
        if host is not None:
            return VideoMemory(regions, self._pool, self._places, Parked(self._held, self._pool.arena, host))
        other = VideoMemory(regions, self._pool, self._places)
        for entry, pages in self._held.items():
            self._pool.hold(pages)
            other._held[entry] = pages
        return other

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
        """All of it as plain values and tensors on the CPU, also while it rests; see `read` and `write_pages`."""
        self._arrival.wait()
        pool, held = (self._pool, self._held) if self._parked is None else self._parked.show(self._pool)
        return {"regions": write_regions(self.regions), **write_pages(pool, held, self._places)}

    def read(self, state: Mapping[str, Any]) -> None:
        """Take in what `write` wrote, into a memory that is empty.

        Args:
            state: With the heads that are here.

        Raises:
            UnsupportedError: It has bytes of pages of other heads.
        """
        read_regions(self.regions, state["regions"])
        read_pages(self._pool, self._held, self._places, state)
        self.version += 1

    @property
    def contents(self) -> Contents:
        """What is held, for other ranks; into a new memory, theirs can be filled."""
        return Contents(regions=self.regions, pool=self._pool, held=self._held, places=self._places)

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

    def _change(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self._carry_out(change)
        self.version += 1

    def _write(self, staging: Staging, indices: Sequence[int]) -> None:
        count = self._pool.pages_for(self._places)
        frames = [Frame(index=index) for index in indices]
        for frame in frames:
            self._held[frame] = self._pool.take(count)  # held at once: whatever fails from here on, they are given back
        room_L2SND = staging.tokens(slice(0, len(frames) * self._places))
        self._pool.take_in([self._held[frame] for frame in frames], self._places, room_L2SND)

    def _carry_out(self, change: Change) -> None:
        match change:
            case Drop(entry=entry):
                self._pool.drop(self._held.pop(entry))
            case Share(entry=entry, into=into):
                self._pool.hold(self._held[entry])
                self._held[into] = self._held[entry]
            case Pick():
                self._pick(change)
            case Fold():
                self._fold(change)

    def _pick(self, pick: Pick) -> None:
        one, other = self._held[pick.one], self._held[pick.other]
        self._held[pick.into] = pages = self._pool.take(len(one))
        pick_pages(self._pool, self._places, one=one, other=other, takes_other=pick.takes_other, into=pages)

    def _fold(self, fold: Fold) -> None:
        new = self._held[fold.new]
        if fold.old is None:
            self._carry_out(Share(entry=fold.new, into=fold.into))
            return
        # The old pages may be shared, so the result needs others; they come from what was promised for one fold more.
        old, pages = self._held[fold.old], self._pool.take(len(new))
        self._held[fold.into] = pages
        fold_pages(self._pool, self._places, old=old, new=new, kept=fold.kept, into=pages)
        self._pool.drop(self._held.pop(fold.old))


def _stands(regions: Regions, entry: Entry, place: int) -> Sequence[int]:
    """Where an entry stands in each layer."""
    return [regions.place(frame) for frame in entry.frames] if isinstance(entry, Banked) else (place,) * regions.layers
