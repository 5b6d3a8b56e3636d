"""Pixels to latent statistics.

Shapes: B batch, C channels, T frames at the layer's rate, H/W height/width at the layer's scale.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from reelray.workers.models.wan.vae.config import WanVaeConfig
from reelray.workers.models.wan.vae.layers import (
    CausalConv3d,
    ChannelNorm,
    FrameAttention,
    History,
    MiddleBlock,
    ResidualBlock,
)
from reelray.workers.models.wan.vae.resample import Downsample


class Encoder(nn.Module):
    """Stages from fine to coarse, then the middle block and the head of width 2·z_dim."""

    def __init__(self, config: WanVaeConfig) -> None:
        super().__init__()
        width = config.base_dim * config.dim_mult[-1]
        self.conv_in = CausalConv3d(config.in_channels, config.base_dim, (3, 3, 3))
        self.down_blocks = nn.ModuleList(_down_blocks(config))
        self.mid_block = MiddleBlock(width, config.dropout)
        self.norm_out = ChannelNorm(width, spatial_dims=3)
        self.conv_out = CausalConv3d(width, config.z_dim * 2, (3, 3, 3))

    def forward(self, x_BCTHW: Tensor, history: History | None = None) -> Tensor:
        """Encode frames (B, C_in, T, H, W) to (B, 2·z_dim, T', H/ratio, W/ratio), before the 1x1x1 that follows."""
        x_BCTHW = self.conv_in(x_BCTHW, history)
        for block in self.down_blocks:
            x_BCTHW = block(x_BCTHW, history)
        x_BCTHW = self.mid_block(x_BCTHW, history)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x_BCTHW)), history)
        return out


def _down_blocks(config: WanVaeConfig) -> list[nn.Module]:
    """One flat list, because the checkpoint numbers blocks, attentions and resamplers in one sequence."""
    blocks: list[nn.Module] = []
    channels = config.base_dim
    for stage, multiplier in enumerate(config.dim_mult):
        width = config.base_dim * multiplier
        for _ in range(config.num_res_blocks):
            blocks.append(ResidualBlock(channels, width, config.dropout))
            channels = width
            if 0.5**stage in config.attn_scales:
                blocks.append(FrameAttention(width))
        if stage < len(config.dim_mult) - 1:
            blocks.append(Downsample(width, temporal=config.temperal_downsample[stage]))
    return blocks
