"""Channel RMS norm and SiLU, written behind the frames that a causal convolution still needs."""

from reelray.kernels.norm_silu.api import norm_silu

__all__ = ["norm_silu"]
