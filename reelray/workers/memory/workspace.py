"""Keys and values of earlier latent frames, laid out so that attention reads them and the window's as one tensor.

Shape suffixes: B batch, K remembered tokens, S window tokens, M = K + S, N heads here, D head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class Workspace:
    """Implements `Past` with one buffer per layer whose address never changes, as CUDA graphs need it.

    Keys are stored as attention reads them: RMS-normed and rotated.

    Args:
        keys: One [B, K, N, D] tensor per layer.
        values: One [B, K, N, D] tensor per layer.
        window: Tokens of the window, S.
        first_head: Number of the first of these heads in the model.
    """

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor], *, window: int, first_head: int = 0) -> None:
        self._remembered = keys[0].shape[1]
        self._first_head = first_head
        self._keys = [_with_room(part_BKND, window) for part_BKND in keys]
        self._values = [_with_room(part_BKND, window) for part_BKND in values]

    def extend(self, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, heads: range) -> tuple[Tensor, Tensor]:
        """See `Past`."""
        own = slice(heads.start - self._first_head, heads.stop - self._first_head)
        keys_BMND, values_BMND = self._keys[layer][:, :, own], self._values[layer][:, :, own]
        keys_BMND[:, self._remembered :].copy_(k_BSND)
        values_BMND[:, self._remembered :].copy_(v_BSND)
        return keys_BMND, values_BMND


def _with_room(remembered_BKND: Tensor, window: int) -> Tensor:
    batch, tokens, heads, width = remembered_BKND.shape
    room_BMND = torch.zeros_like(remembered_BKND[:, :1]).expand(batch, tokens + window, heads, width).clone()
    room_BMND[:, :tokens] = remembered_BKND
    return room_BMND
