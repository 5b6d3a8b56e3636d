"""Modulation in plain torch, float32 inside. Formulas that inductor turns into one kernel each.

Shape suffixes: B batch, S tokens, G groups of S/G tokens that share a modulation, C channels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def norm_modulate(x_BSC: Tensor, shift_BGC: Tensor, scale_BGC: Tensor, *, eps: float) -> Tensor:
    """Compute LayerNorm(x) * (1 + scale) + shift.

    Args:
        x_BSC: Tokens, group after group.
        shift_BGC: Shift of each group, float32.
        scale_BGC: Scale of each group, float32.
        eps: Added to the variance.

    Returns:
        Shape and dtype of `x_BSC`.
    """
    normed_BSC = F.layer_norm(x_BSC.float(), x_BSC.shape[-1:], eps=eps)
    grouped_BGMC = torch.unflatten(normed_BSC, 1, (shift_BGC.shape[1], -1))
    moved_BGMC = torch.addcmul(shift_BGC[:, :, None], grouped_BGMC, 1 + scale_BGC[:, :, None])
    return moved_BGMC.flatten(1, 2).to(x_BSC.dtype)


def add_gated(x_BSC: Tensor, update_BSC: Tensor, gate_BGC: Tensor) -> Tensor:
    """Compute x + update * gate.

    Args:
        x_BSC: Residual stream.
        update_BSC: What a sub-layer adds.
        gate_BGC: Gate of each group, float32.

    Returns:
        Shape and dtype of `x_BSC`.
    """
    groups = (gate_BGC.shape[1], -1)
    grouped_BGMC = torch.unflatten(x_BSC.float(), 1, groups)
    sum_BGMC = torch.addcmul(grouped_BGMC, torch.unflatten(update_BSC.float(), 1, groups), gate_BGC[:, :, None])
    return sum_BGMC.flatten(1, 2).to(x_BSC.dtype)
