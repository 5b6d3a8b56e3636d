"""One allocation for everything that is remembered: pages by reference, runs of pages for workspaces, every byte known.

Shape suffixes: P places of pages, X bytes of a page.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from reelray.proto.errors import ResourceError
from reelray.workers.memory.transfers import Transfer, Transfers

POISON = 0xFF
"""All bits set are NaN in every float that pages hold, and make the scales of 8-bit pages NaN."""
ALIGNED = 16
"""Bytes to which pages are rounded up, so that whatever is laid over them begins where a GPU reads at full speed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Pages that lie side by side and never move.

    Args:
        pages: Their numbers.
        first: Place of the first of them.
        room_X: Their bytes as one tensor.
    """

    pages: tuple[int, ...]
    first: int
    room_X: Tensor


class Arena:
    """Pages of equal size that are promised, taken, held by several and given back; it is never moved.

    A page keeps its number when it is moved to another place, which happens only to make room for a run.

    Args:
        page_bytes: Of a page; rounded up to `ALIGNED`.
        pages: Pages in all.
        device: Where they lie.
        poison: Fill pages when nobody holds them any more, so that a reader of a freed one is found out.
    """

    def __init__(self, *, page_bytes: int, pages: int, device: torch.device, poison: bool = False) -> None:
        if pages < 1 or page_bytes < 1:
            raise ValueError(f"pages is {pages} and page_bytes is {page_bytes}; both must be at least 1")
        self.page_bytes = round_up(page_bytes)
        self.transfers = Transfers(device)
        self._poison = poison
        # Not zeroed: on a CPU a page takes memory once it is written to, and no sooner.
        with torch.inference_mode(mode=False):  # pages are moved and rest outside of forwards too
            self.storage_PX = torch.empty((pages, self.page_bytes), dtype=torch.uint8, device=device)
        self._holders = [0] * pages
        self._free = dict.fromkeys(range(pages - 1, -1, -1))  # the last is taken first
        self._rested: dict[int, None] = {}  # free too, of runs that were given back: the oldest are taken first
        self._leaving: deque[tuple[Transfer, tuple[int, ...]]] = deque()  # free once they are copied
        self._place = list(range(pages))
        self._page_at = list(range(pages))
        self._fixed, self._held = bytearray(pages), bytearray(pages)  # by place
        self._promised = 0

    @property
    def pages(self) -> int:
        """Pages in all."""
        return len(self._holders)

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return self._ready + sum(len(pages) for _, pages in self._leaving)

    @property
    def _ready(self) -> int:
        """Free pages that no copy reads any more."""
        return len(self._free) + len(self._rested)

    @property
    def shared(self) -> int:
        """Holders of pages beyond the first one of each."""
        return sum(count - 1 for count in self._holders if count)

    @property
    def unpromised(self) -> int:
        """Pages that nobody has been promised."""
        return self.pages - self._promised

    def pages_of(self, nbytes: int) -> int:
        """Pages that so many bytes in one run take."""
        return -(-nbytes // self.page_bytes)

    def promise(self, count: int) -> None:
        """Keep pages for one user: as long as nobody takes more than was promised to him, `take` never fails.

        Args:
            count: Pages; a negative number takes a promise back.

        Raises:
            ResourceError: Others have been promised too many, or there never were so many.
        """
        self.check(count)
        self._promised += count

    def check(self, count: int) -> None:
        """Refuse what could not be promised.

        Raises:
            ResourceError: Others have been promised too many pages, or there never were so many.
        """
        if count > self.unpromised:
            raise ResourceError(self._refuse(count))

    def take(self, count: int) -> tuple[int, ...]:
        """Take free pages; each is held once.

        Raises:
            ResourceError: There are fewer; none is taken.
        """
        if count > self.free:
            raise ResourceError(
                f"{count} pages of memory were asked for, {self.free} of {self.pages} are free "
                f"({self.page_bytes} bytes each)"
            )
        self._gather(count)
        return tuple(self._take_one() for _ in range(count))

    def hold(self, pages: Sequence[int]) -> None:
        """Hold pages once more, for another user.

        Raises:
            ValueError: Somebody has given one of them back for the last time.
        """
        self._check_held(pages)
        for page in pages:
            self._holders[page] += 1

    def drop(self, pages: Sequence[int]) -> None:
        """Give pages back; those that nobody else holds are free, for others as soon as no copy reads them any more.

        Raises:
            ValueError: One of them is free already; nothing is given back.
        """
        self._check_held(pages)
        for page in pages:
            self._holders[page] -= 1
        gone = tuple(page for page in pages if not self._holders[page])
        for page in gone:
            self._held[self._place[page]] = False
        if self.transfers.last.is_done:
            self._release(gone)
        else:
            self._leaving.append((self.transfers.last, gone))

    def take_run(self, nbytes: int) -> Run:
        """Take pages that lie side by side; pages of others that are in the way are moved.

        Args:
            nbytes: Bytes of the run; so many pages must have been promised to whoever asks.

        Raises:
            ResourceError: Runs that others have leave no place for it.
        """
        count = self.pages_of(nbytes)
        self.transfers.last.wait()  # a page may be moved that is still on its way
        self._gather(self.free)
        first = self._find_place(count)
        if count > self._ready or first is None:
            raise ResourceError(
                f"a workspace takes {count * self.page_bytes} bytes side by side, and those of other kinds of "
                f"streams lie between the {self._ready * self.page_bytes} that are free"
            )
        places = range(first, first + count)
        self._vacate(places)
        run = Run(
            pages=tuple(self._page_at[place] for place in places),
            first=first,
            room_X=self.storage_PX[first : first + count].flatten()[:nbytes],
        )
        self._fix(run)
        return run

    def retake_run(self, run: Run) -> bool:
        """Take a run again that was given back, unless others have taken or moved pages of it since.

        Args:
            run: As it was; so many pages must have been promised to whoever asks.

        Returns:
            Whether it is as it was, but for what lies in it.
        """
        self._gather(self.free)
        there = all(
            (page in self._free or page in self._rested) and self._page_at[place] == page and not self._fixed[place]
            for place, page in enumerate(run.pages, run.first)
        )
        if there:
            self._fix(run)
        return there

    def drop_run(self, run: Run) -> None:
        """Give a run back. Its pages are the last that others are given, so that it may be taken again."""
        for page in run.pages:
            self._fixed[self._place[page]] = False
        self.drop(run.pages)
        for page in reversed(run.pages):
            if page in self._free:
                del self._free[page]
                self._rested[page] = None

    def places(self, pages: Sequence[int]) -> list[int]:
        """Rows of `storage_PX` in which pages lie until the next run is taken.

        Raises:
            ValueError: One of them is free.
        """
        self._check_held(pages)
        return [self._place[page] for page in pages]

    def _fix(self, run: Run) -> None:
        for place, page in enumerate(run.pages, run.first):
            self._free.pop(page, None)
            self._rested.pop(page, None)
            self._holders[page], self._fixed[place], self._held[place] = 1, True, True

    def _take_one(self) -> int:
        if self._free:
            page, _ = self._free.popitem()
        else:
            page = next(iter(self._rested))
            del self._rested[page]
        self._holders[page], self._held[self._place[page]] = 1, True
        return page

    def _in_turn(self) -> Iterator[int]:
        """Free pages, those first that are taken first."""
        return chain(reversed(self._free), self._rested)

    def _refuse(self, count: int) -> str:
        needed, whole = count * self.page_bytes, self.pages * self.page_bytes
        if count > self.pages:
            return f"the memory of this video takes {needed} bytes, more than the {whole} that there are for all videos"
        free = max(0, self.unpromised) * self.page_bytes
        return f"the memory of this video takes {needed} bytes; {free} of {whole} are not promised to others"

    def _gather(self, count: int) -> None:
        """Have so many pages in the list of free ones, from those that are being copied if need be."""
        while self._leaving and (self._leaving[0][0].is_done or self._ready < count):
            transfer, pages = self._leaving.popleft()
            transfer.wait()
            self._release(pages)

    def _release(self, pages: Sequence[int]) -> None:
        self._free |= dict.fromkeys(pages)
        if self._poison:
            for page in pages:
                self.storage_PX[self._place[page]] = POISON

    def _find_place(self, count: int) -> int | None:
        """Where a run may lie: where the fewest pages are in the way, as far back as can be."""
        if count > self.pages:
            return None
        in_the_way = _counts(self._held, count).masked_fill(_counts(self._fixed, count) > 0, self.pages + 1)
        fewest = int(in_the_way.min())
        return None if fewest > self.pages else int((in_the_way == fewest).nonzero()[-1])

    def _vacate(self, places: range) -> None:
        """Move what lies at places elsewhere."""
        spare = (page for page in self._in_turn() if self._place[page] not in places)
        for place in places:
            page = self._page_at[place]
            if self._holders[page]:
                other = next(spare)
                self.storage_PX[self._place[other]].copy_(self.storage_PX[place])
                self._place[page], self._place[other] = self._place[other], place
                self._page_at[self._place[page]], self._page_at[place] = page, other
                self._held[self._place[page]], self._held[place] = True, False

    def _check_held(self, pages: Sequence[int]) -> None:
        loose = [page for page in pages if not self._holders[page]]
        if loose or len(set(pages)) != len(pages):
            raise ValueError(f"pages {list(pages)}: {loose} are free" if loose else f"pages {list(pages)} repeat")


def round_up(nbytes: int) -> int:
    """Bytes of a page that holds so many."""
    return -(-nbytes // ALIGNED) * ALIGNED


def _counts(claims_P: bytearray, count: int) -> Tensor:
    """How many claims are true of each run of so many places, by the first of them."""
    sums_P = torch.frombuffer(claims_P, dtype=torch.uint8).cumsum(0, dtype=torch.int64)
    sums_P = torch.cat([torch.zeros(1, dtype=torch.int64), sums_P])
    return sums_P[count:] - sums_P[: len(sums_P) - count]
