"""How tokens lie in a page: as they are, or in 8 bits with a scale for every token and head.

Shape suffixes: P pages, X bytes, L layers, 2 keys and values, R rows of a page, N heads, D head width.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from reelray.proto.storage import SCALE_BYTES, Storage

LARGEST = {Storage.FP8: 448.0, Storage.INT8: 127.0}
"""Of the values that 8 bits can hold."""
TINY = torch.finfo(torch.float32).tiny


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

    def stored_bytes(self, storage: Storage) -> int:
        """The same as pages hold it."""
        if storage is Storage.EXACT:
            return self.token_bytes
        return 2 * self.layers * self.heads * (self.width + SCALE_BYTES)


class PageFormat(Protocol):
    """Lays the tokens of a layer into pages.

    Attributes:
        rows: Tokens of a page.
        pages_PL2RND: All pages as the model made them; None where they are kept in another way.
    """

    rows: int
    pages_PL2RND: Tensor | None

    def put(self, layer: int, part: int, places_P: Tensor, tokens_PRND: Tensor) -> None:
        """Write.

        Args:
            layer: Of those that are here.
            part: 0 for keys, 1 for values.
            places_P: Rows of the arena.
            tokens_PRND: What is to lie there.
        """
        ...

    def get(self, layer: int, places_P: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values that lie there [P, R, N, D], in the dtype of the model."""
        ...


class ExactFormat:
    """Implements `PageFormat`: the bits that the model made.

    Args:
        shape: Of a token.
        storage_PX: Of the arena.
    """

    def __init__(self, shape: KeyShape, storage_PX: Tensor) -> None:
        self.rows = storage_PX.shape[1] // shape.token_bytes
        used_PX = storage_PX[:, : self.rows * shape.token_bytes].view(shape.dtype)
        self.pages_PL2RND: Tensor | None = torch.unflatten(
            used_PX, 1, (shape.layers, 2, self.rows, shape.heads, shape.width)
        )
        self._dtype = shape.dtype

    def put(self, layer: int, part: int, places_P: Tensor, tokens_PRND: Tensor) -> None:
        """See `PageFormat`."""
        assert self.pages_PL2RND is not None
        self.pages_PL2RND[:, layer, part].index_copy_(0, places_P, tokens_PRND.to(self._dtype))

    def get(self, layer: int, places_P: Tensor) -> tuple[Tensor, Tensor]:
        """See `PageFormat`."""
        assert self.pages_PL2RND is not None
        keys_PRND, values_PRND = self.pages_PL2RND[:, layer].index_select(0, places_P).unbind(1)
        return keys_PRND, values_PRND


class ScaledFormat:
    """Implements `PageFormat`: x is q * s, s = max |x| of a token's head / largest q, q = x / s in 8 bits.

    Of INT8 the error is at most s / 2; of FP8 (e4m3) at most |x| / 16, or s / 1024 where that is more. Where the model
    computes in fewer than 32 bits, its rounding comes on top.

    Args:
        shape: Of a token.
        storage_PX: Of the arena.
        storage: Which 8 bits.
    """

    def __init__(self, shape: KeyShape, storage_PX: Tensor, storage: Storage) -> None:
        self.pages_PL2RND: Tensor | None = None
        self._storage, self._dtype = storage, shape.dtype
        self.rows = storage_PX.shape[1] // shape.stored_bytes(storage)
        heads = (shape.layers, 2, self.rows, shape.heads)
        split = math.prod(heads) * shape.width  # a multiple of four: heads are rotated in pairs
        end = split + math.prod(heads) * SCALE_BYTES
        self._values_PL2RND = torch.unflatten(storage_PX[:, :split], 1, (*heads, shape.width))
        self._scales_PL2RN = torch.unflatten(storage_PX[:, split:end].view(torch.float32), 1, heads)

    def put(self, layer: int, part: int, places_P: Tensor, tokens_PRND: Tensor) -> None:
        """See `PageFormat`."""
        most = LARGEST[self._storage]
        tokens_PRND = tokens_PRND.float()
        scales_PRN = (tokens_PRND.abs().amax(-1) / most).clamp_min(TINY)
        scaled_PRND = (tokens_PRND / scales_PRN[..., None]).clamp(-most, most)
        if self._storage is Storage.FP8:
            bits_PRND = scaled_PRND.to(torch.float8_e4m3fn)
        else:
            bits_PRND = scaled_PRND.round().to(torch.int8)
        # As bytes: not every device copies 8-bit floats by an index.
        self._values_PL2RND[:, layer, part].index_copy_(0, places_P, bits_PRND.view(torch.uint8))
        self._scales_PL2RN[:, layer, part].index_copy_(0, places_P, scales_PRN)

    def get(self, layer: int, places_P: Tensor) -> tuple[Tensor, Tensor]:
        """See `PageFormat`."""
        eight = torch.float8_e4m3fn if self._storage is Storage.FP8 else torch.int8
        bits_P2RND = self._values_PL2RND[:, layer].index_select(0, places_P).view(eight)
        scales_P2RN = self._scales_PL2RN[:, layer].index_select(0, places_P)
        keys_PRND, values_PRND = (bits_P2RND.float() * scales_P2RN[..., None]).to(self._dtype).unbind(1)
        return keys_PRND, values_PRND


def make_format(shape: KeyShape, storage_PX: Tensor, storage: Storage) -> PageFormat:
    """The format of pages of an arena.

    Raises:
        ValueError: Not one token fits.
    """
    made = ExactFormat(shape, storage_PX) if storage is Storage.EXACT else ScaledFormat(shape, storage_PX, storage)
    if made.rows < 1:
        raise ValueError(f"a page has {storage_PX.shape[1]} bytes, and a token {shape.stored_bytes(storage)}")
    return made
