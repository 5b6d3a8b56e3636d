"""Residual, LayerNorm and modulation in plain torch, float32 inside; inductor turns each into one kernel.

A CPU rounds a product before it is added, as diffusers does: `addcmul` rounds once, and a sampler that amplifies
what is left over can make a visible difference of it.

Shape suffixes: B batch, S tokens, G groups of S/G tokens that share a modulation, C channels.
"""

from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

Modulation: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""Shift, gain and gate of self-attention, then of the feed-forward; [B, G, C] each, float32."""


def modulation_of(table_16C: Tensor, time_BG6C: Tensor) -> Modulation:
    """Add a block's table to the modulation by time; what scales becomes a gain by adding 1.

    Args:
        table_16C: Shift, scale and gate of self-attention, then of the feed-forward.
        time_BG6C: The same of each group.
    """
    rows_BG6C = table_16C.float() + time_BG6C.float()
    shift_self, scale_self, gate_self, shift_ffn, scale_ffn, gate_ffn = rows_BG6C.unbind(2)
    return shift_self, 1 + scale_self, gate_self, shift_ffn, 1 + scale_ffn, gate_ffn


def norm_modulate(x_BSC: Tensor, gain_BGC: Tensor, shift_BGC: Tensor, *, eps: float) -> Tensor:
    """Compute LayerNorm(x) * gain + shift.

    Args:
        x_BSC: Tokens, group after group.
        gain_BGC: Gain of each group; batch and groups of 1 serve all.
        shift_BGC: Shift of each group.
        eps: Added to the variance.

    Returns:
        Shape and dtype of `x_BSC`.
    """
    gain_BGC, shift_BGC = gain_BGC.float(), shift_BGC.float()
    normed_BSC = F.layer_norm(x_BSC.float(), x_BSC.shape[-1:], eps=eps)
    grouped_BGMC = torch.unflatten(normed_BSC, 1, (gain_BGC.shape[1], -1))
    moved_BGMC = _add_product(shift_BGC[:, :, None], grouped_BGMC, gain_BGC[:, :, None])
    return moved_BGMC.flatten(1, 2).to(x_BSC.dtype)


def add_gated(x_BSC: Tensor, update_BSC: Tensor, gate_BGC: Tensor | None) -> Tensor:
    """Compute x + update * gate.

    Args:
        x_BSC: Residual stream.
        update_BSC: What a sub-layer adds.
        gate_BGC: Gate of each group, float32; None means one.

    Returns:
        Shape and dtype of `x_BSC`.
    """
    if gate_BGC is None:
        return x_BSC + update_BSC
    groups = (gate_BGC.shape[1], -1)
    grouped_BGMC = torch.unflatten(x_BSC.float(), 1, groups)
    sum_BGMC = _add_product(grouped_BGMC, torch.unflatten(update_BSC.float(), 1, groups), gate_BGC[:, :, None])
    return sum_BGMC.flatten(1, 2).to(x_BSC.dtype)


def add_norm_modulate(
    x_BSC: Tensor,
    update_BSC: Tensor,
    gate_BGC: Tensor | None,
    gain_BGC: Tensor,
    shift_BGC: Tensor,
    *,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Compute y = x + update * gate and LayerNorm(y) * gain + shift.

    Args:
        x_BSC: Residual stream.
        update_BSC: What a sub-layer adds.
        gate_BGC: Gate of each group, float32; None means one.
        gain_BGC: Gain of each group; batch and groups of 1 serve all.
        shift_BGC: Shift of each group.
        eps: Added to the variance.

    Returns:
        The new residual stream and its modulated norm, both of shape and dtype of `x_BSC`.
    """
    sum_BSC = add_gated(x_BSC, update_BSC, gate_BGC)
    return sum_BSC, norm_modulate(sum_BSC, gain_BGC, shift_BGC, eps=eps)


def add_norm(
    x_BSC: Tensor, update_BSC: Tensor, gate_BGC: Tensor | None, weight_C: Tensor, bias_C: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    """Compute y = x + update * gate and LayerNorm(y) * weight + bias.

    Args:
        x_BSC: Residual stream.
        update_BSC: What a sub-layer adds.
        gate_BGC: Gate of each group, float32; None means one.
        weight_C: Of the norm.
        bias_C: Of the norm.
        eps: Added to the variance.

    Returns:
        The new residual stream and its norm, both of shape and dtype of `x_BSC`.
    """
    sum_BSC = add_gated(x_BSC, update_BSC, gate_BGC)
    normed_BSC = F.layer_norm(sum_BSC.float(), weight_C.shape, weight_C.float(), bias_C.float(), eps)
    return sum_BSC, normed_BSC.to(x_BSC.dtype)


def _add_product(base: Tensor, factor: Tensor, gain: Tensor) -> Tensor:
    """Compute base + factor * gain in the shape of `factor`."""
    if factor.device.type == "cpu":
        return (factor * gain).add_(base)
    return torch.addcmul(base, factor, gain)
