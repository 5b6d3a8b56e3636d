"""Linear layer and tanh-GELU in plain torch."""

from torch import Tensor
from torch.nn import functional as F


def linear_gelu(x_BSC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute gelu(x W^T + b) with the tanh form.

    Args:
        x_BSC: Tokens.
        weight: [out, in].
        bias: [out].
    """
    return F.gelu(F.linear(x_BSC, weight, bias), approximate="tanh")
