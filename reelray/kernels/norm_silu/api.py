"""One public function that picks a form by device."""

from torch import Tensor

from reelray.kernels.norm_silu.reference import norm_silu_reference


def norm_silu(x_BTHWC: Tensor, gamma_C: Tensor | None, past_BPHWC: Tensor) -> tuple[Tensor, Tensor]:
    """Put silu(x / ||x|| * sqrt(C) * gamma) behind the past, ready for a causal convolution.

    Reference: `norm_silu_reference`; tolerance one ulp of the dtype.

    Args:
        x_BTHWC: Contiguous activations.
        gamma_C: Scale per channel; None passes x through unchanged.
        past_BPHWC: P frames of the same op's earlier output; P may be 0.

    Returns:
        Both together (B, P + T, H, W, C), and the last P frames of that in memory of their own: the next call's past.
    """
    if x_BTHWC.is_cuda and gamma_C is not None:
        from reelray.kernels.norm_silu.triton import norm_silu_triton  # noqa: PLC0415  GPU-only dependency

        return norm_silu_triton(x_BTHWC, gamma_C, past_BPHWC)
    return norm_silu_reference(x_BTHWC, gamma_C, past_BPHWC)
