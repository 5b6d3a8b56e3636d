"""LayerNorm and modulation through Triton on CUDA, through the reference elsewhere. For inference: no gradient.

Shape suffixes: B batch, S tokens, G groups of tokens, C channels.
"""

from torch import Tensor

from reelray.kernels.modulate import reference


def modulation_of(table_16C: Tensor, time_BG6C: Tensor) -> reference.Modulation:
    """Shifts, gains and gates of a block; see `reference.modulation_of`."""
    if time_BG6C.device.type != "cuda":
        return reference.modulation_of(table_16C, time_BG6C)
    from reelray.kernels.modulate import triton as kernels  # noqa: PLC0415  (triton exists on GPU machines only)

    return kernels.modulation_of(table_16C, time_BG6C)


def norm_modulate(x_BSC: Tensor, gain_BGC: Tensor, shift_BGC: Tensor, *, eps: float) -> Tensor:
    """Compute LayerNorm(x) * gain + shift; see `reference.norm_modulate`."""
    if x_BSC.device.type != "cuda":
        return reference.norm_modulate(x_BSC, gain_BGC, shift_BGC, eps=eps)
    from reelray.kernels.modulate import triton as kernels  # noqa: PLC0415  (triton exists on GPU machines only)

    normed_BSC: Tensor = kernels.norm_modulate(x_BSC, gain_BGC, shift_BGC, eps)
    return normed_BSC


def add_norm_modulate(
    x_BSC: Tensor,
    update_BSC: Tensor,
    gate_BGC: Tensor | None,
    gain_BGC: Tensor,
    shift_BGC: Tensor,
    *,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Compute y = x + update * gate and LayerNorm(y) * gain + shift; see `reference.add_norm_modulate`."""
    if x_BSC.device.type != "cuda":
        return reference.add_norm_modulate(x_BSC, update_BSC, gate_BGC, gain_BGC, shift_BGC, eps=eps)
    from reelray.kernels.modulate import triton as kernels  # noqa: PLC0415  (triton exists on GPU machines only)

    sum_BSC, normed_BSC = kernels.add_norm_modulate(x_BSC, update_BSC, gate_BGC, gain_BGC, shift_BGC, eps)
    return sum_BSC, normed_BSC


def add_norm(
    x_BSC: Tensor, update_BSC: Tensor, gate_BGC: Tensor | None, weight_C: Tensor, bias_C: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    """Compute y = x + update * gate and LayerNorm(y) * weight + bias; see `reference.add_norm`."""
    if x_BSC.device.type != "cuda":
        return reference.add_norm(x_BSC, update_BSC, gate_BGC, weight_C, bias_C, eps=eps)
    return add_norm_modulate(x_BSC, update_BSC, gate_BGC, weight_C[None, None], bias_C[None, None], eps=eps)


def add_gated(x_BSC: Tensor, update_BSC: Tensor, gate_BGC: Tensor | None) -> Tensor:
    """Compute x + update * gate; see `reference.add_gated`."""
    if x_BSC.device.type != "cuda" or gate_BGC is None:
        return reference.add_gated(x_BSC, update_BSC, gate_BGC)
    from reelray.kernels.modulate import triton as kernels  # noqa: PLC0415  (triton exists on GPU machines only)

    sum_BSC: Tensor = kernels.add_gated(x_BSC, update_BSC, gate_BGC)
    return sum_BSC
