"""What windows of several requests have in common when they share a forward, and what each row of it has for itself.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width, S tokens, N heads, D head width, P
rotated pairs of a head.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from reelray.kernels.norm_rope.api import rotate
from reelray.workers.models.attention_op import AttentionOp, View
from reelray.workers.models.sharding import TokenShard
from reelray.workers.to_device import put_on

if TYPE_CHECKING:
    from reelray.workers.models.api import VideoModel


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Row:
    """One window under one text, to be evaluated.

    Args:
        latents_1CTHW: Noisy latents.
        timesteps: In [0, 1000], of each latent frame.
        text: Its text context.
        positions: Temporal position of each latent frame.
        image: Its image context, for i2v models.
        view: What it has to do with a memory.
    """

    latents_1CTHW: Tensor
    timesteps: tuple[float, ...]
    text: Any
    positions: tuple[int, ...]
    image: Any | None = None
    view: View | None = None

    def evaluate_by(self, model: "VideoModel") -> Tensor:
        """The prediction of this window alone."""
        return model.denoise(
            self.latents_1CTHW,
            put_on(model.device, self.timesteps, torch.float32)[None],
            [self.text],
            positions_BT=put_on(model.device, self.positions, torch.int64)[None],
            image=None if self.image is None else [self.image],
            view=self.view,
        )


@dataclass(kw_only=True, slots=True, unsafe_hash=True)
class RowsAttention:
    """Implements `AttentionOp`: each row of a batch attends by itself; equal to that of the same rows.

    Where one row wants heads as they are before rotation, those of the others are rotated here.

    Args:
        rows: Of each row.
    """

    rows: tuple[AttentionOp, ...]
    rotates: bool = field(init=False, compare=False)
    repeats: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        self.rotates = any(row.rotates for row in self.rows)
        self.repeats = all(row.repeats for row in self.rows)

    def __call__(
        self, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, cos_BSP: Tensor, sin_BSP: Tensor
    ) -> Tensor:
        """See `AttentionOp`."""
        count, mixed_BSND = len(self.rows), torch.empty(q_BSND.shape, dtype=q_BSND.dtype, device=q_BSND.device)
        angles = zip(
            torch.split(cos_BSP.expand(count, -1, -1), 1), torch.split(sin_BSP.expand(count, -1, -1), 1), strict=True
        )
        heads = zip(torch.split(q_BSND, 1), torch.split(k_BSND, 1), torch.split(v_BSND, 1), strict=True)
        rows = zip(self.rows, torch.split(mixed_BSND, 1), heads, angles, strict=True)
        for row, mixed_1SND, (q_1SND, k_1SND, v_1SND), (cos_1SP, sin_1SP) in rows:
            if self.rotates and not row.rotates:
                q_1SND, k_1SND = rotate(q_1SND, cos_1SP, sin_1SP), rotate(k_1SND, cos_1SP, sin_1SP)  # noqa: PLW2901
            mixed_1SND.copy_(row(q_1SND, k_1SND, v_1SND, layer=layer, cos_BSP=cos_1SP, sin_BSP=sin_1SP))
        return mixed_BSND


@dataclass(frozen=True, kw_only=True, slots=True)
class JointShard:
    """Implements `TokenShard` of windows of one size; equal to that of the same rows.

    Args:
        rows: Of each row; all are of the same ranks.
    """

    rows: tuple[TokenShard, ...]

    @property
    def attention(self) -> AttentionOp:
        """See `TokenShard`."""
        return RowsAttention(rows=tuple(row.attention for row in self.rows))

    @property
    def peers(self) -> Hashable:
        """See `TokenShard`."""
        return self.rows[0].peers

    def agree(self, *, own: bool) -> bool:
        """See `TokenShard`."""
        return self.rows[0].agree(own=own)

    def widest(self, own: int) -> int:
        """See `TokenShard`."""
        return self.rows[0].widest(own)

    def take(self, tokens_BSC: Tensor) -> Tensor:
        """See `TokenShard`."""
        return self.rows[0].take(tokens_BSC)

    def join(self, tokens_BSC: Tensor) -> Tensor:
        """See `TokenShard`."""
        return self.rows[0].join(tokens_BSC)
