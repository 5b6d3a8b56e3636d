"""Pages of keys and values that videos share: counted references, in one of the formats of an arena.

Shape suffixes: P pages, R rows of a page, N heads, D head width, S tokens.
"""

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from reelray.kernels.norm_rope.api import rotate
from reelray.kernels.paged_tokens import api as paged_tokens
from reelray.kernels.put_tokens.api import put_tokens
from reelray.proto.errors import UnsupportedError
from reelray.proto.storage import Storage
from reelray.workers.memory.arena import Arena
from reelray.workers.memory.page_format import KeyShape, make_format
from reelray.workers.to_device import put_on


class PagePool:
    """Hands out pages of one format.

    Args:
        arena: Whose pages; pools of other formats may have others of them.
        shape: What a token leaves.
        storage: How it is kept.
    """

    def __init__(self, arena: Arena, shape: KeyShape, storage: Storage = Storage.EXACT) -> None:
        self.arena, self.shape, self.storage = arena, shape, storage
        self._format = make_format(shape, arena.storage_PX, storage)

    @classmethod
    def make(cls, shape: KeyShape, *, pages: int, rows: int, device: torch.device, poison: bool = False) -> Self:
        """A pool of exact pages on an arena of its own.

        Args:
            shape: What a token leaves.
            pages: Pages in all.
            rows: Tokens of a page.
            device: Where they lie.
            poison: See `Arena`.
        """
        return cls(Arena(page_bytes=rows * shape.token_bytes, pages=pages, device=device, poison=poison), shape)

    @property
    def is_exact(self) -> bool:
        """Whether pages hold what the model made."""
        return self._format.pages_PL2RND is not None

    @property
    def rows(self) -> int:
        """Tokens of a page."""
        return self._format.rows

    @property
    def pages(self) -> int:
        """Pages in all."""
        return self.arena.pages

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.arena.storage_PX.device

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return self.arena.free

    @property
    def unpromised(self) -> int:
        """Pages that nobody has been promised."""
        return self.arena.unpromised

    @property
    def page_bytes(self) -> int:
        """Bytes of one page."""
        return self.arena.page_bytes

    def pages_for(self, tokens: int) -> int:
        """Pages that `tokens` tokens take."""
        return -(-tokens // self.rows)

    def promise(self, count: int) -> None:
        """See `Arena.promise`."""
        self.arena.promise(count)

    def take(self, count: int) -> tuple[int, ...]:
        """See `Arena.take`."""
        return self.arena.take(count)

    def hold(self, pages: Sequence[int]) -> None:
        """See `Arena.hold`."""
        self.arena.hold(pages)

    def drop(self, pages: Sequence[int]) -> None:
        """See `Arena.drop`."""
        self.arena.drop(pages)

    def show(self, entries: Sequence[Sequence[int]]) -> Tensor:
        """The bytes of the pages of entries [P, X], on the CPU; entries may share pages."""
        return self.arena.storage_PX[self._find(entries)].cpu()

    def fill(self, entries: Sequence[Sequence[int]], bytes_PX: Tensor) -> None:
        """Have the pages of entries hold what `show` has shown of others.

        Raises:
            UnsupportedError: Those were of another size: of other heads.
        """
        if bytes_PX.shape[1:] != self.arena.storage_PX.shape[1:]:
            raise UnsupportedError("pages in 8 bits go to ranks that share the heads as those did that wrote them")
        self.arena.storage_PX[self._find(entries)] = bytes_PX.to(self.device)

    def writer(self, frames: Sequence[Sequence[int]], tokens: int) -> Callable[[int, Tensor, Tensor], None]:
        """What fills the pages of some latent frames, layer by layer.

        Args:
            frames: Pages of each, as many as `pages_for` its tokens.
            tokens: Of each.

        Returns:
            Takes a layer, counted from 0 among those that are here, its keys, not rotated, and its values [S, N, D].
        """
        places_P, rows = self._find(frames), self._rows_of(tokens)

        def write(layer: int, keys_SND: Tensor, values_SND: Tensor) -> None:
            for part, source_SND in enumerate((keys_SND, values_SND)):
                padded = F.pad(torch.unflatten(source_SND, 0, (len(frames), tokens)), (0, 0, 0, 0, 0, rows - tokens))
                tokens_PRND = torch.unflatten(padded.flatten(0, 1), 0, (len(places_P), self.rows))
                self._format.put(layer, part, places_P, tokens_PRND)

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
        places_P, rows = self._find(frames), self._rows_of(tokens)

        def read(layer: int) -> tuple[Tensor, Tensor]:
            keys_SND, values_SND = (
                torch.unflatten(part_PRND.flatten(0, 1), 0, (len(frames), rows))[:, :tokens].flatten(0, 1)
                for part_PRND in self._format.get(layer, places_P)
            )
            return keys_SND, values_SND

        return read

    def lay_out(
        self, frames: Sequence[Sequence[int]], tokens: int, to_L2SND: Tensor, angles: tuple[Tensor, Tensor]
    ) -> None:
        """Copy the tokens of some latent frames out of their pages, all layers, keys rotated.

        Args:
            frames: Pages of each.
            tokens: Of each.
            to_L2SND: Is overwritten.
            angles: Cosines and sines [1, S, P] of the tokens.

        Raises:
            ValueError: A page is free.
        """
        cos_1SP, sin_1SP = angles
        pages_PL2RND = self._format.pages_PL2RND
        if pages_PL2RND is not None:
            paged_tokens.lay_out(pages_PL2RND, self._find(frames), to_L2SND, cos_1SP[0], sin_1SP[0], tokens=tokens)
            return
        read = self.reader(frames, tokens)
        for layer, (to_keys_SND, to_values_SND) in enumerate(to_L2SND.unbind(0)):
            keys_SND, values_SND = read(layer)
            put_tokens(rotate(keys_SND[None], cos_1SP, sin_1SP)[0], values_SND, to_keys_SND, to_values_SND)

    def take_in(self, frames: Sequence[Sequence[int]], tokens: int, room_L2SND: Tensor) -> None:
        """Copy the tokens of some latent frames into their pages, all layers.

        Args:
            frames: Pages of each, as many as `pages_for` its tokens.
            tokens: Of each.
            room_L2SND: Keys, not rotated, and values.
        """
        pages_PL2RND = self._format.pages_PL2RND
        if pages_PL2RND is not None:
            paged_tokens.take_in(room_L2SND, pages_PL2RND, self._find(frames), tokens=tokens)
            return
        write = self.writer(frames, tokens)
        for layer, (keys_SND, values_SND) in enumerate(room_L2SND.unbind(0)):
            write(layer, keys_SND, values_SND)

    def _find(self, frames: Sequence[Sequence[int]]) -> Tensor:
        places = [place for pages in frames for place in self.arena.places(pages)]
        return put_on(self.arena.storage_PX.device, places, torch.int64)

    def _rows_of(self, tokens: int) -> int:
        return self.pages_for(tokens) * self.rows
