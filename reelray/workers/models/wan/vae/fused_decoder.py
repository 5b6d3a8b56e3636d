"""The decoder on a GPU: channels-last throughout, two kernels per convolution, no compilation and so no recompilation.

Same maths and same state slots as `Decoder`; only rounding differs, because bias, residual and upsampling are folded
into the convolutions. Every shape runs with the same kernels.

Shapes: B batch, T frames, H/W height/width, C channels, innermost in memory.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from reelray.kernels.causal_conv3d import PackedConv, causal_conv3d, pack_conv
from reelray.kernels.norm_silu import norm_silu
from reelray.workers.models.wan.vae.decoder import Decoder, UpStage
from reelray.workers.models.wan.vae.layers import CausalConv3d, ChannelNorm, FrameAttention, ResidualBlock
from reelray.workers.models.wan.vae.margin import Margin, RowExchange
from reelray.workers.models.wan.vae.resample import Upsample
from reelray.workers.models.wan.vae.state import Slots


class Past:
    """As `History`, channels-last: what came before, what the next call needs, and rows of other ranks."""

    def __init__(self, slots: Sequence[Tensor] | None, exchange: RowExchange | None = None) -> None:
        self.first = slots is None
        self.margin = Margin(exchange, dim=2)
        self.kept: list[Tensor] = []
        self._slots = slots

    def frames(self, like_BTHWC: Tensor, reach: int) -> Tensor:
        """The past of the next layer in call order; zeros when a video begins."""
        if self._slots is None:
            batch, _, *rest = like_BTHWC.shape
            return like_BTHWC.new_zeros(batch, reach, *rest)
        return self._slots[len(self.kept)].permute(0, 2, 3, 4, 1)

    def keep(self, frames_BPHWC: Tensor) -> None:
        """Keep the newest frames, in memory of their own, for the next call and move on to the next layer."""
        self.kept.append(frames_BPHWC.permute(0, 4, 1, 2, 3))


class FusedConv:
    """norm, SiLU (both optional) and a causal convolution, with its slot."""

    def __init__(self, conv: CausalConv3d, norm: ChannelNorm | None = None) -> None:
        self.conv = pack(conv)
        self.gamma = None if norm is None else norm.gamma.data.flatten().contiguous()

    def __call__(self, x_BTHWC: Tensor, past: Past, residual: Tensor | None = None) -> Tensor:
        """Apply; the frame count stays. Margins of the input are written to."""
        if self.conv.kernel[1] > 1:
            x_BTHWC = past.margin.before_3x3(x_BTHWC)
        reach = self.conv.kernel[0] - 1
        joined, newest = norm_silu(x_BTHWC, self.gamma, past.frames(x_BTHWC, reach))
        past.keep(newest)
        return causal_conv3d(joined, self.conv, residual=residual)


class FusedBlock:
    """A residual block in four kernels, five if its width changes."""

    def __init__(self, block: ResidualBlock) -> None:
        self.first = FusedConv(block.conv1, block.norm1)
        self.second = FusedConv(block.conv2, block.norm2)
        self.shortcut = None if block.conv_shortcut is None else pack(block.conv_shortcut)

    def __call__(self, x_BTHWC: Tensor, past: Past) -> Tensor:
        """Apply; shape but for channels unchanged."""
        straight = x_BTHWC if self.shortcut is None else causal_conv3d(x_BTHWC, self.shortcut)
        return self.second(self.first(x_BTHWC, past), past, residual=straight)


class FusedAttention:
    """Single-head attention within each frame."""

    def __init__(self, attention: FrameAttention) -> None:
        self.gamma = attention.norm.gamma.data.flatten()
        self.qkv_weight, self.qkv_bias = attention.to_qkv.weight.data.flatten(1), attention.to_qkv.bias
        self.out_weight, self.out_bias = attention.proj.weight.data.flatten(1), attention.proj.bias

    def __call__(self, x_BTHWC: Tensor, margin: Margin) -> Tensor:
        """Apply; shape unchanged."""
        whole_BTHWC, x_BTHWC, rows = margin.whole(x_BTHWC)
        batch, frames, height, width, channels = whole_BTHWC.shape
        rows_FSC = whole_BTHWC.reshape(batch * frames, height * width, channels)
        unit = F.normalize(rows_FSC.float(), dim=-1).to(x_BTHWC.dtype) * channels**0.5 * self.gamma
        q, k, v = F.linear(unit, self.qkv_weight, self.qkv_bias).chunk(3, dim=-1)
        q = q[:, rows.start * width : rows.stop * width]
        mixed = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x_BTHWC + F.linear(mixed, self.out_weight, self.out_bias).view(x_BTHWC.shape)


class FusedUpsample:
    """Doubles the frame rate where asked, then both sides, upsampling folded into the convolution."""

    def __init__(self, upsample: Upsample) -> None:
        conv: torch.nn.Conv2d = upsample.resample[1]  # type: ignore[assignment]
        assert conv.bias is not None
        self.spatial = pack_conv(conv.weight.data[:, :, None], conv.bias.data, upsample=True)
        self.temporal = None if upsample.time_conv is None else FusedConv(upsample.time_conv)

    def __call__(self, x_BTHWC: Tensor, past: Past) -> Tensor:
        """(B, T, H, W, C) to (B, T', 2H, 2W, C/2)."""
        # Before the frame rate doubles, rows of half as many frames are exchanged.
        x_BTHWC = past.margin.before_3x3(x_BTHWC)
        if self.temporal is not None:
            x_BTHWC = self._double_rate(x_BTHWC, self.temporal, past)
        large = causal_conv3d(past.margin.before_enlarging(x_BTHWC), self.spatial)
        return past.margin.after_enlarging(large)

    def _double_rate(self, x_BTHWC: Tensor, conv: FusedConv, past: Past) -> Tensor:
        if not past.first:
            return interleave(conv(x_BTHWC, past))
        if x_BTHWC.shape[1] == 1:
            past.keep(past.frames(x_BTHWC, 2).clone())
            return x_BTHWC
        rest = interleave(conv(x_BTHWC[:, 1:].contiguous(), past))
        return torch.cat([x_BTHWC[:, :1], rest], dim=1)


class FusedDecoder:
    """Decodes like `WanVae.decode_first` and `WanVae.decode_step`, from packed copies of the decoder's weights.

    Args:
        entry: The 1x1x1 convolution before the decoder.
        decoder: On its final device, in its final dtype.
    """

    def __init__(self, entry: CausalConv3d, decoder: Decoder) -> None:
        self.entry = pack(entry)
        self.conv_in = FusedConv(decoder.conv_in)
        middle = decoder.mid_block
        self.before, self.after = (FusedBlock(_as_block(block)) for block in middle.resnets)
        attention = middle.attentions[0]
        assert isinstance(attention, FrameAttention)
        self.attention = FusedAttention(attention)
        self.stages = [_fuse_stage(stage) for stage in decoder.up_blocks if isinstance(stage, UpStage)]
        self.conv_out = FusedConv(decoder.conv_out, decoder.norm_out)

    def __call__(
        self, latents_BCTHW: Tensor, slots: Sequence[Tensor] | None, exchange: RowExchange | None = None
    ) -> tuple[Tensor, Slots]:
        """Decode the next latent frames.

        Args:
            latents_BCTHW: Raw latents.
            slots: As the call before returned them; None when a video begins.
            exchange: As `WanVae.decode` takes it; None when the latents are the whole picture.

        Returns:
            Pixels (B, C, T', H', W') in [-1, 1], channels-last, without margins, and the new slots.
        """
        past = Past(slots, exchange)
        x_BTHWC = causal_conv3d(latents_BCTHW.permute(0, 2, 3, 4, 1).contiguous(), self.entry)
        x_BTHWC = self.before(self.conv_in(x_BTHWC, past), past)
        x_BTHWC = self.after(self.attention(x_BTHWC, past.margin), past)
        for blocks, upsample in self.stages:
            for block in blocks:
                x_BTHWC = block(x_BTHWC, past)
            x_BTHWC = x_BTHWC if upsample is None else upsample(x_BTHWC, past)
        video_BTHWC = past.margin.own(self.conv_out(x_BTHWC, past).clamp_(-1.0, 1.0))
        return video_BTHWC.permute(0, 4, 1, 2, 3), tuple(past.kept)


def pack(conv: CausalConv3d) -> PackedConv:
    """Pack a causal convolution's weights."""
    assert conv.bias is not None
    return pack_conv(conv.weight.data, conv.bias.data)


def interleave(x_BTHWC: Tensor) -> Tensor:
    """Turn two channel halves into two frames: (B, T, H, W, 2C) to (B, 2T, H, W, C)."""
    batch, frames, height, width, channels = x_BTHWC.shape
    halves = x_BTHWC.view(batch, frames, height, width, 2, channels // 2)
    return halves.permute(0, 1, 4, 2, 3, 5).reshape(batch, 2 * frames, height, width, channels // 2)


def _as_block(block: torch.nn.Module) -> ResidualBlock:
    assert isinstance(block, ResidualBlock)
    return block


def _fuse_stage(stage: UpStage) -> tuple[list[FusedBlock], FusedUpsample | None]:
    blocks = [FusedBlock(_as_block(block)) for block in stage.resnets]
    if stage.upsamplers is None:
        return blocks, None
    upsample = stage.upsamplers[0]
    assert isinstance(upsample, Upsample)
    return blocks, FusedUpsample(upsample)
