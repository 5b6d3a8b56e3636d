"""Change of scale between two stages: H and W by two, and where asked the frame rate by two.

The first frame of a video keeps its rate: it is one latent frame and one pixel frame.
Shapes: B batch, C channels, T frames at the layer's rate, H/W height/width at the layer's scale.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reelray.workers.models.wan.vae.layers import (
    CausalConv3d,
    History,
    batch_to_frames,
    frames_to_batch,
    lay_out_last,
)
from reelray.workers.models.wan.vae.margin import Margin


class Downsample(nn.Module):
    """Halve H and W by a strided 3x3; if `temporal`, then halve the frame rate by a strided causal 3x1x1."""

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__()
        # The parameter-free first entry keeps the checkpoint's name `resample.1`.
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = CausalConv3d(channels, channels, (3, 1, 1)) if temporal else None
        self.channels_last = False

    def forward(self, x_BCTHW: Tensor, history: History | None = None) -> Tensor:
        """(B, C, T, H, W) to (B, C, T', H/2, W/2); T' is T, 1 + (T - 1)/2 for a clip's start, T/2 after it."""
        margin = history.margin if history else Margin(None, dim=3)
        seen = margin.before_halving(margin.before_3x3(x_BCTHW))
        frames = self.resample(frames_to_batch(seen, channels_last=self.channels_last))
        small = margin.after_halving(batch_to_frames(frames, x_BCTHW.shape[0], channels_last=self.channels_last))
        return small if self.time_conv is None else self._halve_rate(small, self.time_conv, history)

    def _halve_rate(self, x_BCTHW: Tensor, conv: CausalConv3d, history: History | None) -> Tensor:
        first = history is None or history.first
        window = x_BCTHW if history is None or first else torch.cat([history.past(x_BCTHW, 1), x_BCTHW], dim=2)
        if history is not None:
            history.keep(x_BCTHW[:, :, -1:])
        if window.shape[2] == 1:
            return window
        halved = conv.convolve(window, time_stride=2)
        return torch.cat([window[:, :, :1], halved], dim=2) if first else halved


class Upsample(nn.Module):
    """If `temporal`, double the frame rate by a causal 3x1x1; then double H and W (nearest) and apply a 3x3."""

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__()
        nearest = nn.Upsample(scale_factor=(2.0, 2.0), mode="nearest-exact")
        self.resample = nn.Sequential(nearest, nn.Conv2d(channels, channels // 2, 3, padding=1))
        self.time_conv = CausalConv3d(channels, channels * 2, (3, 1, 1)) if temporal else None
        self.channels_last = False
        self.subpixel = False

    def forward(self, x_BCTHW: Tensor, history: History | None = None) -> Tensor:
        """(B, C, T, H, W) to (B, C/2, T', 2H, 2W); T' is T, 2T - 1 for a clip's start, 2T after it."""
        margin = history.margin if history else Margin(None, dim=3)
        # Before the frame rate doubles, rows of half as many frames are exchanged.
        x_BCTHW = margin.before_3x3(x_BCTHW)
        if self.time_conv is not None:
            x_BCTHW = self._double_rate(x_BCTHW, self.time_conv, history)
        frames = frames_to_batch(margin.before_enlarging(x_BCTHW), channels_last=self.channels_last)
        large = self._enlarge_by_subpixels(frames) if self.subpixel else self.resample(frames)
        return margin.after_enlarging(batch_to_frames(large, x_BCTHW.shape[0], channels_last=self.channels_last))

    def _enlarge_by_subpixels(self, frames_FCHW: Tensor) -> Tensor:
        conv = self.resample[1]
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        return upsample_by_subpixels(frames_FCHW, conv.weight, conv.bias)

    def _double_rate(self, x_BCTHW: Tensor, conv: CausalConv3d, history: History | None) -> Tensor:
        if history is not None and not history.first:
            return interleave(conv(x_BCTHW, history), channels_last=self.channels_last)
        if x_BCTHW.shape[2] > 1:
            rest = interleave(conv(x_BCTHW[:, :, 1:], history), channels_last=self.channels_last)
            return torch.cat([x_BCTHW[:, :, :1], rest], dim=2)
        if history is not None:
            history.keep(history.past(x_BCTHW, conv.reach))
        return x_BCTHW


def upsample_by_subpixels(x_FCHW: Tensor, weight_OC33: Tensor, bias_O: Tensor) -> Tensor:
    """Nearest 2x then 3x3 without making the large picture: the four output parities are four 2x2 convolutions.

    An output row 2i sees input rows i-1, i, i of the large picture's three taps, row 2i+1 sees i, i, i+1; taps that
    fall on one input row add up. 16 products an input position instead of 36; equal up to rounding of the sums.

    Args:
        x_FCHW: Frames (F, C, H, W).
        weight_OC33: Weight of the 3x3 convolution.
        bias_O: Its bias.

    Returns:
        (F, O, 2H, 2W), channels-last.
    """
    height, width = x_FCHW.shape[2:]
    kernels = [kernel for rows in _pair_taps(weight_OC33, dim=2) for kernel in _pair_taps(rows, dim=3)]
    parities = F.conv2d(x_FCHW, torch.cat(kernels), bias_O.repeat(4), padding=1).permute(0, 2, 3, 1).chunk(4, dim=3)
    shifted = [
        part[:, index // 2 : index // 2 + height, index % 2 : index % 2 + width] for index, part in enumerate(parities)
    ]
    both_rows = [torch.stack(shifted[2 * row : 2 * row + 2], dim=3).flatten(2, 3) for row in range(2)]
    return torch.stack(both_rows, dim=2).flatten(1, 2).permute(0, 3, 1, 2)


def _pair_taps(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Three taps along `dim` to two, for even and for odd outputs."""
    first, middle, last = weight.unbind(dim)
    return torch.stack([first, middle + last], dim), torch.stack([first + middle, last], dim)


def interleave(x_BCTHW: Tensor, *, channels_last: bool) -> Tensor:
    """Turn two channel halves into two frames, in the layout asked for: (B, 2C, T, H, W) to (B, C, 2T, H, W)."""
    batch, channels, frames, height, width = x_BCTHW.shape
    halves = x_BCTHW.view(batch, 2, channels // 2, frames, height, width)
    if channels_last:
        return lay_out_last(halves.permute(0, 3, 1, 4, 5, 2), (batch, 2 * frames, height, width))
    return halves.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
