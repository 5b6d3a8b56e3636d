"""The op in plain torch.

Shape suffixes: B batch, T frames, H/W height/width, C channels, innermost in memory.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def norm_silu_reference(x_BTHWC: Tensor, gamma_C: Tensor | None, past_BPHWC: Tensor) -> Tensor:
    """Concatenate the past and silu(x / ||x|| * sqrt(C) * gamma); without gamma, the past and x itself."""
    if gamma_C is None:
        return torch.cat([past_BPHWC, x_BTHWC], dim=1)
    unit = F.normalize(x_BTHWC.float(), dim=-1) * (x_BTHWC.shape[-1] ** 0.5) * gamma_C.float()
    return torch.cat([past_BPHWC, F.silu(unit).to(x_BTHWC.dtype)], dim=1)
