"""One transformer block: self-attention, cross-attention, feed-forward, each modulated or gated by the timestep.

The block is cut into three regions at its attentions. Each region is plain tensor work that compiles once and serves
every layer; the attentions between them stay eager calls that may reach memory pages or other ranks.
Shape suffixes: B batch, S tokens, G groups of tokens with one timestep, N heads, D head width, C channels, K context
tokens.
"""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from reelray.kernels.modulate.reference import Modulation
from reelray.kernels.norm_rope.reference import norm_heads
from reelray.workers.models.attention_op import AttentionOp
from reelray.workers.models.wan.block_ops import TORCH_OPS, BlockOps
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.embeddings import FeedForward
from reelray.workers.models.wan.rope import Rotation
from reelray.workers.models.wan.text_context import Context

Heads: TypeAlias = tuple[Tensor, Tensor, Tensor]
Due: TypeAlias = tuple[Tensor, Tensor]
"""A sub-layer's output [B, S, C] and its gate [B, G, C], not yet added to the residual stream."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockInputs:
    """What every block reads besides its tokens.

    Args:
        modulation: [B, G, 6, C], shift, scale, gate of self-attention, then of the feed-forward; a block adds its
            own table.
        rotation: Angles of the window's tokens.
        text: Keys and values of the prompt.
        image: Keys and values of the image of an i2v model.
        attention: Self-attention.
    """

    modulation: Tensor
    rotation: Rotation
    text: Context
    image: Context | None
    attention: AttentionOp


class SelfAttention(nn.Module):
    """Projections of self-attention; q, k and v are one weight of 3C rows in this order."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.eps = config.eps
        self.to_qkv = nn.Linear(config.dim, 3 * config.dim)
        self.norm_q = nn.RMSNorm(config.dim, eps=config.eps)
        self.norm_k = nn.RMSNorm(config.dim, eps=config.eps)
        self.to_out = nn.ModuleList([nn.Linear(config.dim, config.dim)])

    def project(self, x_BSC: Tensor, rotation: Rotation | None, ops: BlockOps) -> Heads:
        """Make queries, keys and values of each head; rotated when a rotation is given."""
        q_BSC, k_BSC, v_BSC = self.to_qkv(x_BSC).chunk(3, dim=-1)
        q_BSND, k_BSND = (
            ops.norm_heads(
                part_BSC,
                norm.weight,
                self.heads,
                eps=self.eps,
                cos_BSP=None if rotation is None else rotation.cos,
                sin_BSP=None if rotation is None else rotation.sin,
            )
            for part_BSC, norm in ((q_BSC, self.norm_q), (k_BSC, self.norm_k))
        )
        return q_BSND, k_BSND, torch.unflatten(v_BSC, -1, (self.heads, -1))


class CrossAttention(nn.Module):
    """Projections of cross-attention to text and, in i2v models, to an image."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.num_attention_heads
        self.eps = config.eps
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(dim, eps=config.eps)
        self.norm_k = nn.RMSNorm(dim, eps=config.eps)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        if config.is_i2v:
            self.add_k_proj = nn.Linear(dim, dim)
            self.add_v_proj = nn.Linear(dim, dim)
            self.norm_added_k = nn.RMSNorm(dim, eps=config.eps)

    def text_heads(self, text_BKC: Tensor) -> tuple[Tensor, Tensor]:
        """Make keys and values of projected text."""
        keys_BKND = norm_heads(self.to_k(text_BKC), self.norm_k.weight, self.heads, eps=self.eps)
        return keys_BKND, self.to_v(text_BKC).unflatten(-1, (self.heads, -1))

    def image_heads(self, image_BKC: Tensor) -> tuple[Tensor, Tensor]:
        """Make keys and values of a projected image."""
        keys_BKND = norm_heads(self.add_k_proj(image_BKC), self.norm_added_k.weight, self.heads, eps=self.eps)
        return keys_BKND, self.add_v_proj(image_BKC).unflatten(-1, (self.heads, -1))

    def attend(self, q_BSND: Tensor, text: Context, image: Context | None, layer: int) -> Tensor:
        """Attend text and image apart and add; returns [B, S, N, D]."""
        mixed_BSND = text.attend(q_BSND, layer)
        if image is not None:
            mixed_BSND = mixed_BSND + image.attend(q_BSND, layer)
        return mixed_BSND


class WanBlock(nn.Module):
    """One block.

    Args:
        config: Size of the model.
    """

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.ops: BlockOps = TORCH_OPS
        self.scale_shift_table = nn.Parameter(torch.empty(1, 6, config.dim))
        self.attn1 = SelfAttention(config)
        self.attn2 = CrossAttention(config)
        self.norm2 = nn.LayerNorm(config.dim, eps=config.eps) if config.cross_attn_norm else None
        self.ffn = FeedForward(config.dim, config.ffn_dim, config.dim, "tanh")

    def forward(self, x_BSC: Tensor, inputs: BlockInputs, layer: int, due: Due | None = None) -> tuple[Tensor, Due]:
        """Map tokens.

        Args:
            x_BSC: Residual stream.
            inputs: What all blocks share.
            layer: Index of this block.
            due: What the block before has yet to add to it.

        Returns:
            The residual stream, and what is yet to be added to it, which the next block's norm does in passing.
        """
        rotation = inputs.rotation
        x_BSC, modulation, (q_BSND, k_BSND, v_BSND) = self.before_self(
            x_BSC, due, inputs.modulation, None if inputs.attention.rotates else rotation
        )
        mixed_BSND = inputs.attention(q_BSND, k_BSND, v_BSND, layer=layer, cos_BSP=rotation.cos, sin_BSP=rotation.sin)
        x_BSC, q_BSND = self.between(x_BSC, mixed_BSND, modulation)
        mixed_BSND = self.attn2.attend(q_BSND, inputs.text, inputs.image, layer)
        return self.after_cross(x_BSC, mixed_BSND, modulation)

    def before_self(
        self, x_BSC: Tensor, due: Due | None, time_BG6C: Tensor, rotation: Rotation | None
    ) -> tuple[Tensor, Modulation, Heads]:
        """Add what is due; norm, modulate, project, norm and rotate heads."""
        modulation = self.ops.modulation_of(self.scale_shift_table, time_BG6C)
        shift_BGC, gain_BGC, *_ = modulation
        if due is None:
            normed_BSC = self.ops.norm_modulate(x_BSC, gain_BGC, shift_BGC, eps=self.eps)
        else:
            x_BSC, normed_BSC = self.ops.add_norm_modulate(x_BSC, *due, gain_BGC, shift_BGC, eps=self.eps)
        return x_BSC, modulation, self.attn1.project(normed_BSC, rotation, self.ops)

    def between(self, x_BSC: Tensor, mixed_BSND: Tensor, modulation: Modulation) -> tuple[Tensor, Tensor]:
        """Add self-attention; make the queries of cross-attention."""
        _, _, gate_BGC, *_ = modulation
        update_BSC = self.attn1.to_out[0](mixed_BSND.flatten(2))
        if self.norm2 is None:
            x_BSC = normed_BSC = self.ops.add_gated(x_BSC, update_BSC, gate_BGC)
        else:
            x_BSC, normed_BSC = self.ops.add_norm(
                x_BSC, update_BSC, gate_BGC, self.norm2.weight, self.norm2.bias, eps=self.eps
            )
        cross = self.attn2
        return x_BSC, self.ops.norm_heads(cross.to_q(normed_BSC), cross.norm_q.weight, cross.heads, eps=self.eps)

    def after_cross(self, x_BSC: Tensor, mixed_BSND: Tensor, modulation: Modulation) -> tuple[Tensor, Due]:
        """Add cross-attention; compute the feed-forward."""
        *_, shift_BGC, gain_BGC, gate_BGC = modulation
        update_BSC = self.attn2.to_out[0](mixed_BSND.flatten(2))
        x_BSC, normed_BSC = self.ops.add_norm_modulate(x_BSC, update_BSC, None, gain_BGC, shift_BGC, eps=self.eps)
        widen, narrow = self.ffn.layers
        hidden_BSC = self.ops.linear_gelu(normed_BSC, widen.weight, widen.bias)
        return x_BSC, (narrow(hidden_BSC), gate_BGC)
