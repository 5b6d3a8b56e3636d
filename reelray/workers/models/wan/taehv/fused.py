"""The network on a GPU: channels-last, one kernel for each convolution with its bias, residual, ReLU and upsampling.

Same maths and same slots as `Network`; only rounding differs. A memory block's first convolution, of a frame beside the
one before, is a causal convolution over two frames. Shapes: B videos, T frames, H/W height/width, C channels, innermost
in memory.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reelray.kernels.causal_conv3d import PackedConv, causal_conv3d, pack_conv
from reelray.workers.models.wan.taehv.network import MemoryBlock, Network, Stage, bend


class FusedBlock:
    """A memory block in three kernels and a copy."""

    def __init__(self, block: MemoryBlock) -> None:
        weight = block.first.weight.data
        now, before = weight.chunk(2, dim=1)
        self.first = pack_conv(torch.stack([before, now], dim=2), _bias(block.first))
        self.second, self.third = _pack(block.second), _pack(block.third)

    def __call__(self, x_BTHWC: Tensor, past_B1HWC: Tensor) -> Tensor:
        """Apply; shape unchanged."""
        inner = causal_conv3d(torch.cat([past_B1HWC, x_BTHWC], dim=1), self.first, relu=True)
        inner = causal_conv3d(inner, self.second, relu=True)
        return causal_conv3d(inner, self.third, residual=x_BTHWC, relu=True)


class FusedStage:
    """A stage; the last one's ReLU is that of the network's exit."""

    def __init__(self, stage: Stage, *, relu: bool) -> None:
        self.rate, self.relu = stage.rate, relu
        self.blocks = [FusedBlock(block) for block in stage.blocks if isinstance(block, MemoryBlock)]
        self.grow, self.narrow = _pack(stage.grow), _pack(stage.narrow, upsample=True)

    def __call__(self, x_BTHWC: Tensor, slots: Sequence[Tensor] | None, kept: list[Tensor]) -> Tensor:
        """(B, T, H, W, C) to (B, T·rate, 2H, 2W, C_out)."""
        for block in self.blocks:
            past = torch.zeros_like(x_BTHWC[:, :1]) if slots is None else slots[len(kept)].permute(0, 2, 3, 4, 1)
            kept.append(x_BTHWC[:, -1:].clone().permute(0, 4, 1, 2, 3))
            x_BTHWC = block(x_BTHWC, past)
        grown = causal_conv3d(x_BTHWC, self.grow)
        if self.rate > 1:
            batch, frames, height, width, _ = grown.shape
            parts = grown.view(batch, frames, height, width, self.rate, -1).permute(0, 1, 4, 2, 3, 5)
            grown = parts.reshape(batch, frames * self.rate, height, width, -1)
        return causal_conv3d(grown, self.narrow, relu=self.relu)


class FusedNetwork:
    """Decodes like `Network`, from packed copies of its weights.

    Args:
        network: On its final device, in its final dtype.
    """

    def __init__(self, network: Network) -> None:
        self.entry, self.exit = _pack(network.entry), _pack(network.exit)
        stages = [stage for stage in network.stages if isinstance(stage, Stage)]
        self.stages = [FusedStage(stage, relu=stage is stages[-1]) for stage in stages]

    def __call__(self, latents_BCTHW: Tensor, slots: Sequence[Tensor] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Network.forward`."""
        kept: list[Tensor] = []
        x_BTHWC = causal_conv3d(bend(latents_BCTHW).permute(0, 2, 3, 4, 1).contiguous(), self.entry, relu=True)
        for stage in self.stages:
            x_BTHWC = stage(x_BTHWC, slots, kept)
        return causal_conv3d(x_BTHWC, self.exit).permute(0, 4, 1, 2, 3), tuple(kept)


def _pack(conv: nn.Conv2d, *, upsample: bool = False) -> PackedConv:
    return pack_conv(conv.weight.data[:, :, None], _bias(conv), upsample=upsample)


def _bias(conv: nn.Conv2d) -> Tensor:
    return conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.data
