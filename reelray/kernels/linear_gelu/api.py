"""Linear layer with GELU in the matrix product's epilogue on CUDA: the wide hidden tensor is written once.

The epilogue bends the float32 accumulator, the reference a rounded product; the tolerance is two rounding steps.
For inference: no gradient.
"""

import torch
from torch import Tensor

from reelray.kernels.linear_gelu import reference


def linear_gelu(x_BSC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute gelu(x W^T + b) with the tanh form; see `reference.linear_gelu`."""
    if x_BSC.device.type != "cuda" or x_BSC.dtype == torch.float32:
        return reference.linear_gelu(x_BSC, weight, bias)
    hidden_BSC: Tensor = _epilogue(x_BSC, weight, bias)
    return hidden_BSC


# An op of our own: inductor takes `_addmm_activation` apart into a product and a GELU.
@torch.library.custom_op("reelray::linear_gelu", mutates_args=())
def _epilogue(x_BSC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rows = x_BSC.reshape(-1, x_BSC.shape[-1])
    hidden: Tensor = torch.ops.aten._addmm_activation(bias, rows, weight.t(), use_gelu=True)  # noqa: SLF001
    return hidden.view(*x_BSC.shape[:-1], weight.shape[0])


@_epilogue.register_fake
def _(x_BSC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    del bias
    return x_BSC.new_empty(*x_BSC.shape[:-1], weight.shape[0])
