"""Rows of a batch that attend one by one, by attention whose result is valid until the next call only."""

import torch

from reelray.kernels.norm_rope.api import rotate
from reelray.workers.models.joint_rows import RowsAttention


class OneRoom:
    """Gives q + 10 k + 100 v in the one room that all of its kind share."""

    room = torch.empty(1, 3, 2, 4)

    def __init__(self, *, rotates=False):
        self.rotates, self.repeats = rotates, True

    def __call__(self, q_BSND, k_BSND, v_BSND, *, layer, cos_BSP, sin_BSP):
        if self.rotates:
            q_BSND, k_BSND = rotate(q_BSND, cos_BSP, sin_BSP), rotate(k_BSND, cos_BSP, sin_BSP)
        return self.room.copy_(q_BSND + 10 * k_BSND + 100 * v_BSND + layer)


def test_no_row_is_overwritten_by_the_next_one() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 4, 3, 2, 4)
    cos, sin = torch.randn(2, 4, 3, 2)
    plain = RowsAttention(rows=tuple(OneRoom() for _ in range(4)))
    found = plain(q, k, v, layer=7, cos_BSP=cos, sin_BSP=sin)
    torch.testing.assert_close(found, q + 10 * k + 100 * v + 7)
    mixed = RowsAttention(rows=tuple(OneRoom(rotates=row == 2) for row in range(4)))
    found = mixed(q, k, v, layer=7, cos_BSP=cos, sin_BSP=sin)
    torch.testing.assert_close(found, rotate(q, cos, sin) + 10 * rotate(k, cos, sin) + 100 * v + 7)
