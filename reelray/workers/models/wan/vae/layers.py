"""Layers that encoder and decoder share. Time is causal: an output frame sees its own and earlier frames only.

Shapes: B batch, C channels, T frames at the layer's rate, H/W height/width at the layer's scale.
Every layer with a reach into the past takes a `History`: None means "this is the whole clip".
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reelray.workers.models.wan.vae.margin import Margin, RowExchange


class History:
    """What lies beyond the tensors of a call: frames of earlier calls, one slot a layer in call order, and rows.

    Args:
        slots: What the layers left behind last time, each (B, C, reach, H, W); None when a video begins, which is
            special to temporal resampling and otherwise the same as a past of zeros.
        channels_last: Layout of the zeros before the first frame. It must be that of the activations: joining two
            layouts gives the contiguous one, and the slots would then hand it on to every later call.
        exchange: How to reach the rows of other ranks; None when this rank has the whole picture.
    """

    def __init__(
        self, slots: Sequence[Tensor] | None, *, channels_last: bool, exchange: RowExchange | None = None
    ) -> None:
        self.first = slots is None
        self.channels_last = channels_last
        self.margin = Margin(exchange, dim=3, channels_last=channels_last)
        self.kept: list[Tensor] = []
        self._slots = slots

    def prepend(self, x_BCTHW: Tensor, reach: int) -> Tensor:
        """Put this layer's past in front of `x_BCTHW` and keep its newest `reach` frames for the next call."""
        past = self.past(x_BCTHW, reach)
        joined = torch.cat([past, x_BCTHW], dim=2)
        self.kept.append(joined[:, :, -reach:].clone())
        return joined

    def past(self, x_BCTHW: Tensor, reach: int) -> Tensor:
        """This layer's past, without moving on to the next layer."""
        if self._slots is not None:
            return self._slots[len(self.kept)]
        batch, channels, _, height, width = x_BCTHW.shape
        layout = torch.channels_last_3d if self.channels_last else torch.contiguous_format
        return x_BCTHW.new_zeros((batch, channels, reach, height, width)).contiguous(memory_format=layout)

    def keep(self, past_BCTHW: Tensor) -> None:
        """Make `past_BCTHW` this layer's past and move on to the next layer."""
        self.kept.append(past_BCTHW.clone())


class CausalConv3d(nn.Conv3d):
    """Convolution that pads time on the left only: with what came before, or with zeros when a video begins."""

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int, int]) -> None:
        super().__init__(in_channels, out_channels, kernel)
        self.by_taps = False
        self.channels_last = False
        self.reach = kernel[0] - 1
        self.border = (kernel[1] // 2, kernel[2] // 2)

    def forward(self, x_BCTHW: Tensor, history: History | None = None) -> Tensor:
        """Convolve; output has the shape of the input but for its channels. Margins of the input are written to."""
        if self.border[0] and history is not None:
            x_BCTHW = history.margin.before_3x3(x_BCTHW)
        if self.reach and history is None and x_BCTHW.shape[2] == 1:
            return self._single_frame(x_BCTHW)
        if self.reach and history is None:
            x_BCTHW = F.pad(x_BCTHW, (0, 0, 0, 0, self.reach, 0))
        elif self.reach and history is not None:
            x_BCTHW = history.prepend(x_BCTHW, self.reach)
        return self.convolve(x_BCTHW)

    def convolve(self, x_BCTHW: Tensor, time_stride: int = 1) -> Tensor:
        """Convolve without padding time: T frames in, (T - reach - 1) // time_stride + 1 out."""
        if self.by_taps:
            return self._sum_of_taps(x_BCTHW, time_stride)
        return F.conv3d(x_BCTHW, self.weight, self.bias, (time_stride, 1, 1), (0, *self.border))

    def _sum_of_taps(self, x_BCTHW: Tensor, time_stride: int) -> Tensor:
        """The same sum, one 2-D convolution a temporal tap: many times faster than 3-D in fp32 on a CPU."""
        last = x_BCTHW.shape[2] - self.reach
        starts = range(self.reach + 1)
        slices = [x_BCTHW[:, :, start : start + last : time_stride] for start in starts]
        windows = [frames_to_batch(frames, channels_last=self.channels_last) for frames in slices]
        total = F.conv2d(windows[0], self.weight[:, :, 0], self.bias, padding=self.border)
        for tap in range(1, self.reach + 1):
            total += F.conv2d(windows[tap], self.weight[:, :, tap], padding=self.border)
        return batch_to_frames(total, x_BCTHW.shape[0], channels_last=self.channels_last)

    def _single_frame(self, x_BC1HW: Tensor) -> Tensor:
        """A lone frame meets zeros under all temporal taps but the last, so those need not be computed."""
        return F.conv2d(x_BC1HW[:, :, 0], self.weight[:, :, -1], self.bias, padding=self.border).unsqueeze(2)


class ChannelNorm(nn.Module):
    """Divide each position by the root mean square over its channels, then scale by `gamma`."""

    def __init__(self, channels: int, *, spatial_dims: int) -> None:
        super().__init__()
        self.scale = channels**0.5
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * spatial_dims))

    def forward(self, x_BC: Tensor) -> Tensor:
        """Normalise over dimension 1; half dtypes are worked on in fp32 and rounded once."""
        if x_BC.dtype in (torch.bfloat16, torch.float16):
            length = torch.linalg.vector_norm(x_BC, dim=1, keepdim=True, dtype=torch.float32)
            scaled: Tensor = x_BC * (self.scale / length.clamp_min(1e-12)) * self.gamma.float()
            scaled = scaled.to(x_BC.dtype)
        else:
            scaled = F.normalize(x_BC, dim=1) * self.scale * self.gamma
        return scaled


class ResidualBlock(nn.Module):
    """norm, SiLU, 3x3x3, norm, SiLU, 3x3x3, added to the input (through 1x1x1 if the width changes)."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(in_channels, spatial_dims=3)
        self.conv1 = CausalConv3d(in_channels, out_channels, (3, 3, 3))
        self.norm2 = ChannelNorm(out_channels, spatial_dims=3)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = CausalConv3d(out_channels, out_channels, (3, 3, 3))
        same = in_channels == out_channels
        self.conv_shortcut = None if same else CausalConv3d(in_channels, out_channels, (1, 1, 1))

    def forward(self, x_BCTHW: Tensor, history: History | None = None) -> Tensor:
        """Apply the block; (B, C_in, T, H, W) to (B, C_out, T, H, W)."""
        straight = x_BCTHW if self.conv_shortcut is None else self.conv_shortcut(x_BCTHW)
        inner = self.conv1(F.silu(self.norm1(x_BCTHW)), history)
        inner = self.conv2(self.dropout(F.silu(self.norm2(inner))), history)
        added: Tensor = inner + straight
        return added


class FrameAttention(nn.Module):
    """Single-head self-attention among the positions of one frame; frames do not see each other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, spatial_dims=2)
        self.to_qkv = nn.Conv2d(channels, channels * 3, 1)
        self.proj = nn.Conv2d(channels, channels, 1)
        self.channels_last = False

    def forward(self, x_BCTHW: Tensor, history: History | None = None) -> Tensor:
        """Apply attention to every frame; shape unchanged."""
        whole_BCTHW, x_BCTHW, rows = (history.margin if history else Margin(None, dim=3)).whole(x_BCTHW)
        batch, channels, _, height, width = x_BCTHW.shape
        frames = frames_to_batch(whole_BCTHW, channels_last=self.channels_last)
        qkv = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2).contiguous()
        q, k, v = qkv.unsqueeze(1).chunk(3, dim=-1)
        asked = q[:, :, rows.start * width : rows.stop * width]
        mixed_FSC = F.scaled_dot_product_attention(asked, k, v).squeeze(1)
        if self.channels_last:
            mixed = lay_out_last(mixed_FSC, (frames.shape[0], height, width))
        else:
            mixed = mixed_FSC.transpose(1, 2).reshape(frames.shape[0], channels, height, width)
        # In this order: the first term decides the memory layout of the sum, and so the rounding of the next norm.
        return batch_to_frames(self.proj(mixed), batch, channels_last=self.channels_last) + x_BCTHW


class MiddleBlock(nn.Module):
    """Residual block, attention, residual block at the coarsest scale."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([FrameAttention(channels)])
        self.resnets = nn.ModuleList([ResidualBlock(channels, channels, dropout) for _ in range(2)])

    def forward(self, x_BCTHW: Tensor, history: History | None = None) -> Tensor:
        """Apply the three layers; shape unchanged."""
        x_BCTHW = self.resnets[0](x_BCTHW, history)
        x_BCTHW = self.attentions[0](x_BCTHW, history)
        mixed: Tensor = self.resnets[1](x_BCTHW, history)
        return mixed


def frames_to_batch(x_BCTHW: Tensor, *, channels_last: bool) -> Tensor:
    """(B, C, T, H, W) to (B·T, C, H, W), in the layout asked for; no copy when the input has it and is dense."""
    if not channels_last:
        return x_BCTHW.transpose(1, 2).flatten(0, 1)
    batch, _, frames, height, width = x_BCTHW.shape
    return lay_out_last(x_BCTHW.permute(0, 2, 3, 4, 1), (batch * frames, height, width))


def batch_to_frames(x_FCHW: Tensor, batch: int, *, channels_last: bool) -> Tensor:
    """Undo `frames_to_batch`: (B·T, C, H, W) to (B, C, T, H, W)."""
    frames, channels, height, width = x_FCHW.shape
    if not channels_last:
        return x_FCHW.view(batch, frames // batch, channels, height, width).transpose(1, 2)
    return lay_out_last(x_FCHW.permute(0, 2, 3, 1), (batch, frames // batch, height, width))


def lay_out_last(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Give values in channels-last order a new shape before their last dimension C, and move C to place 1.

    It goes through one dimension on purpose: a plain view keeps odd strides in dimensions of size one, by which
    convolutions then fail to recognise the layout and answer with contiguous tensors.
    """
    dims = len(shape)
    laid: Tensor = x.reshape(-1).view(*shape, x.shape[-1]).permute(0, dims, *range(1, dims))
    return laid
