"""Pages of keys and values that videos share: fixed addresses, counted references, every byte accounted for.

Shape suffixes: P pages, L layers, 2 keys and values, R rows of a page, N heads, D head width, S tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from reelray.proto.errors import ResourceError


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyShape:
    """What one token leaves in memory.

    Args:
        layers: Layers of the model that are here.
        heads: Heads that are here.
        width: Values of a head.
        dtype: Of keys and values.
    """

    layers: int
    heads: int
    width: int
    dtype: torch.dtype

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.heads * self.width * self.dtype.itemsize


class PagePool:
    """Hands out pages of one storage that is never moved.

    Args:
        shape: What a token leaves.
        pages: Pages in all.
        rows: Tokens of a page.
        device: Where they lie.
        poison: Fill pages with NaN when nobody holds them any more, so that a reader of a freed one is found out.
    """

    def __init__(self, shape: KeyShape, *, pages: int, rows: int, device: torch.device, poison: bool = False) -> None:
        if pages < 1 or rows < 1:
            raise ValueError(f"pages is {pages} and rows is {rows}; both must be at least 1")
        self.shape, self.rows = shape, rows
        self._poison = poison
        room = (pages, shape.layers, 2, rows, shape.heads, shape.width)
        # Not zeroed: on a CPU a page takes memory once it is written to, and no sooner.
        self._storage_PL2RND = torch.empty(room, dtype=shape.dtype, device=device)
        self._holders = [0] * pages
        self._free = list(range(pages - 1, -1, -1))
        self._promised = 0

    @property
    def pages(self) -> int:
        """Pages in all."""
        return len(self._holders)

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    @property
    def unpromised(self) -> int:
        """Pages that nobody has been promised."""
        return self.pages - self._promised

    @property
    def page_bytes(self) -> int:
        """Bytes of one page."""
        return self.rows * self.shape.token_bytes

    def pages_for(self, tokens: int) -> int:
        """Pages that `tokens` tokens take."""
        return -(-tokens // self.rows)

    def promise(self, count: int) -> None:
        """Keep pages for one video: as long as nobody takes more than was promised to him, `take` never fails.

        Args:
            count: Pages; a negative number takes a promise back.

        Raises:
            ResourceError: Others have been promised too many.
        """
        if count > self.unpromised:
            room = max(0, self.unpromised) * self.page_bytes
            raise ResourceError(
                f"the memory of this video takes {count * self.page_bytes} bytes; {room} of "
                f"{self.pages * self.page_bytes} are not promised to others"
            )
        self._promised += count

    def take(self, count: int) -> tuple[int, ...]:
        """Take free pages; each is held once.

        Raises:
            ResourceError: There are fewer; none is taken.
        """
        if count > len(self._free):
            raise ResourceError(
                f"{count} pages of memory were asked for, {len(self._free)} of {self.pages} are free "
                f"({self.page_bytes} bytes each)"
            )
        taken = tuple(self._free.pop() for _ in range(count))
        for page in taken:
            self._holders[page] = 1
        return taken

    def hold(self, pages: Sequence[int]) -> None:
        """Hold pages once more, for another video.

        Raises:
            ValueError: Somebody has given one of them back for the last time.
        """
        self._check_held(pages)
        for page in pages:
            self._holders[page] += 1

    def drop(self, pages: Sequence[int]) -> None:
        """Give pages back; those that nobody else holds are free.

        Raises:
            ValueError: One of them is free already; nothing is given back.
        """
        self._check_held(pages)
        for page in pages:
            self._holders[page] -= 1
            if not self._holders[page]:
                self._free.append(page)
                if self._poison:
                    self._storage_PL2RND[page] = torch.nan

    def writer(self, frames: Sequence[Sequence[int]], tokens: int) -> Callable[[int, Tensor, Tensor], None]:
        """What fills the pages of some latent frames, layer by layer.

        Args:
            frames: Pages of each, as many as `pages_for` its tokens.
            tokens: Of each.

        Returns:
            Takes a layer, counted from 0 among those that are here, its keys, not rotated, and its values [S, N, D].
        """
        index, rows = self._index(frames), self._rows_of(tokens)

        def write(layer: int, keys_SND: Tensor, values_SND: Tensor) -> None:
            for part, source_SND in enumerate((keys_SND, values_SND)):
                padded = F.pad(torch.unflatten(source_SND, 0, (len(frames), tokens)), (0, 0, 0, 0, 0, rows - tokens))
                pages_PRND = torch.unflatten(padded.flatten(0, 1), 0, (len(index), self.rows)).to(self.shape.dtype)
                self._storage_PL2RND[:, layer, part].index_copy_(0, index, pages_PRND)

        return write

    def reader(self, frames: Sequence[Sequence[int]], tokens: int) -> Callable[[int], tuple[Tensor, Tensor]]:
        """What copies the tokens of some latent frames out of their pages, layer by layer.

        Args:
            frames: Pages of each.
            tokens: Of each.

        Returns:
            Takes a layer and gives its keys and values [S, N, D].

        Raises:
            ValueError: A page is free.
        """
        index, rows = self._index(frames), self._rows_of(tokens)

        def read(layer: int) -> tuple[Tensor, Tensor]:
            picked = self._storage_PL2RND[:, layer].index_select(0, index)
            keys_PRND, values_PRND = picked.unbind(1)
            keys_SND, values_SND = (
                torch.unflatten(part.flatten(0, 1), 0, (len(frames), rows))[:, :tokens].flatten(0, 1)
                for part in (keys_PRND, values_PRND)
            )
            return keys_SND, values_SND

        return read

    def _index(self, frames: Sequence[Sequence[int]]) -> Tensor:
        for pages in frames:
            self._check_held(pages)
        return torch.tensor([page for pages in frames for page in pages], device=self._storage_PL2RND.device)

    def _rows_of(self, tokens: int) -> int:
        return self.pages_for(tokens) * self.rows

    def _check_held(self, pages: Sequence[int]) -> None:
        loose = [page for page in pages if not self._holders[page]]
        if loose or len(set(pages)) != len(pages):
            raise ValueError(f"pages {list(pages)}: {loose} are free" if loose else f"pages {list(pages)} repeat")
