"""Linear layer and tanh-GELU in plain torch."""

import torch
from torch import Tensor
from torch.nn import functional as F


def linear_gelu(x_BSC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute gelu(x W^T + b) with the tanh form.

    Args:
        x_BSC: Tokens.
        weight: [out, in].
        bias: [out].
    """
    hidden_BSC = F.linear(x_BSC, weight, bias)
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.gelu(hidden_BSC, approximate="tanh")
    # In place: eager inference spares the widest tensor of the block a second allocation.
    bent_BSC: Tensor = torch.ops.aten.gelu_(hidden_BSC, approximate="tanh")
    return bent_BSC
