"""Pages in host memory, where videos that rest are kept: allocated piece by piece and never given back before the end.

Shape suffixes: P pages, X bytes of a page.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from reelray.proto.errors import ResourceError
from reelray.workers.residency.host_blocks import HostBuffer

SLAB_BYTES = 1 << 30
"""Allocated at a time: page-locking a gigabyte stalls the host for a fraction of a second, once."""


class HostPages:
    """Hands out pages of host memory, page-locked where the device is a GPU.

    Args:
        page_bytes: Of a page.
        budget_bytes: Of all pages.
        device: Who copies.
        poison: Value of all bytes of pages that nobody holds any more; None leaves them.
    """

    def __init__(self, *, page_bytes: int, budget_bytes: int, device: torch.device, poison: int | None = None) -> None:
        self.page_bytes = page_bytes
        self.pages = budget_bytes // page_bytes
        self._device, self._poison = device, poison
        self._slab = max(1, SLAB_BYTES // page_bytes)
        self._slabs: list[HostBuffer] = []
        self._rows: list[Tensor] = []
        self._free: list[int] = []
        self._held: set[int] = set()

    @property
    def free(self) -> int:
        """Pages that nobody holds, those that are yet to be allocated included."""
        return self.pages - len(self._held)

    def take(self, count: int) -> tuple[int, ...]:
        """Take pages.

        Raises:
            ResourceError: There are fewer, or the machine has no memory for them; none is taken.
        """
        if count > self.free:
            raise ResourceError(
                f"to put this video to rest takes {count * self.page_bytes} bytes of host memory; "
                f"{self.free * self.page_bytes} of {self.pages * self.page_bytes} are free"
            )
        while len(self._free) < count:
            self._allocate()
        taken = tuple(self._free.pop() for _ in range(count))
        self._held.update(taken)
        return taken

    def drop(self, pages: Sequence[int]) -> None:
        """Give pages back; copies that are asked for later follow those that are on their way.

        Raises:
            ValueError: One of them is free already; nothing is given back.
        """
        loose = [page for page in pages if page not in self._held]
        if loose or len(set(pages)) != len(pages):
            raise ValueError(f"host pages {list(pages)}: {loose} are free" if loose else f"{list(pages)} repeat")
        self._held.difference_update(pages)
        self._free += pages
        if self._poison is not None and self._device.type == "cpu":
            for row_X in self.rows(pages):
                row_X.fill_(self._poison)

    def rows(self, pages: Sequence[int]) -> list[Tensor]:
        """The bytes of pages."""
        return [self._rows[page] for page in pages]

    def _allocate(self) -> None:
        count = min(self._slab, self.pages - len(self._rows))
        try:
            with torch.inference_mode(mode=False):
                slab = HostBuffer(count * self.page_bytes, self._device)
        except ResourceError as error:
            raise ResourceError(f"no host memory to put a video to rest: {error.message}") from None
        self._slabs.append(slab)
        begin = len(self._rows)
        self._rows += torch.unflatten(slab.bytes, 0, (count, self.page_bytes)).unbind(0)
        self._free += range(begin, begin + count)
