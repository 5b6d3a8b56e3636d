"""Latents to pixels.

Shapes: B batch, C channels, T frames at the layer's rate, H/W height/width at the layer's scale.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from reelray.workers.models.wan.vae.config import WanVaeConfig
from reelray.workers.models.wan.vae.layers import CausalConv3d, ChannelNorm, History, MiddleBlock, ResidualBlock
from reelray.workers.models.wan.vae.resample import Upsample


class UpStage(nn.Module):
    """Residual blocks of one scale, then the resampler to the next finer one (none after the finest)."""

    def __init__(self, in_channels: int, channels: int, config: WanVaeConfig, upsample: Upsample | None) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * config.num_res_blocks]
        self.resnets = nn.ModuleList([ResidualBlock(width, channels, config.dropout) for width in widths])
        self.upsamplers = None if upsample is None else nn.ModuleList([upsample])

    def forward(self, x_BCTHW: Tensor, history: History | None = None) -> Tensor:
        """Apply the stage; a resampler halves channels and doubles H, W and where asked the frame rate."""
        for block in [*self.resnets, *(self.upsamplers or [])]:
            x_BCTHW = block(x_BCTHW, history)
        return x_BCTHW


class Decoder(nn.Module):
    """The middle block, stages from coarse to fine, then the head."""

    def __init__(self, config: WanVaeConfig) -> None:
        super().__init__()
        base = config.decoder_base_dim or config.base_dim
        widths = [base * multiplier for multiplier in reversed(config.dim_mult)]
        self.conv_in = CausalConv3d(config.z_dim, widths[0], (3, 3, 3))
        self.mid_block = MiddleBlock(widths[0], config.dropout)
        self.up_blocks = nn.ModuleList(_up_stages(config, widths))
        self.norm_out = ChannelNorm(widths[-1], spatial_dims=3)
        self.conv_out = CausalConv3d(widths[-1], config.out_channels, (3, 3, 3))

    def forward(self, x_BCTHW: Tensor, history: History | None = None) -> Tensor:
        """Decode (B, z_dim, T, H, W), taken after the 1x1x1, to frames (B, C_out, T', H·ratio, W·ratio)."""
        x_BCTHW = self.mid_block(self.conv_in(x_BCTHW, history), history)
        for stage in self.up_blocks:
            x_BCTHW = stage(x_BCTHW, history)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x_BCTHW)), history)
        return out


def _up_stages(config: WanVaeConfig, widths: list[int]) -> list[UpStage]:
    stages: list[UpStage] = []
    channels = widths[0]
    doubles_rate = tuple(reversed(config.temperal_downsample))
    for index, width in enumerate(widths):
        last = index == len(widths) - 1
        upsample = None if last else Upsample(width, temporal=doubles_rate[index])
        stages.append(UpStage(channels, width, config, upsample))
        channels = width // 2
    return stages
