"""The op in plain torch.

Shape suffixes: B batch, T frames, H/W height/width, C channels, innermost in memory.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def norm_silu_reference(x_BTHWC: Tensor, gamma_C: Tensor | None, past_BPHWC: Tensor) -> tuple[Tensor, Tensor]:
    """Concatenate the past and silu(x / ||x|| * sqrt(C) * gamma); without gamma, the past and x itself."""
    y_BTHWC = x_BTHWC
    if gamma_C is not None:
        unit = F.normalize(x_BTHWC.float(), dim=-1) * (x_BTHWC.shape[-1] ** 0.5) * gamma_C.float()
        y_BTHWC = F.silu(unit).to(x_BTHWC.dtype)
    joined = torch.cat([past_BPHWC, y_BTHWC], dim=1)
    return joined, joined[:, x_BTHWC.shape[1] :].clone()
