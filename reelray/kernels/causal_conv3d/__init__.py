"""Causal 3-D convolution over channels-last video, with a fused bias, residual, ReLU and nearest-2x upsampling."""

from reelray.kernels.causal_conv3d.api import PackedConv, causal_conv3d, pack_conv

__all__ = ["PackedConv", "causal_conv3d", "pack_conv"]
