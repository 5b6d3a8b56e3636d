"""The GELU epilogue against its reference."""

import pytest
import torch

from reelray.kernels.linear_gelu.api import linear_gelu
from reelray.kernels.linear_gelu.reference import linear_gelu as plain


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(1, 1, 8, 16), (2, 37, 48, 80), (1, 300, 256, 1024)])
def test_equals_reference(device, dtype, size) -> None:
    batch, tokens, inner, outer = size
    torch.manual_seed(0)
    x = torch.randn(batch, tokens, inner, device=device).to(dtype)
    weight = (torch.randn(outer, inner, device=device) / inner**0.5).to(dtype)
    bias = torch.randn(outer, device=device).to(dtype)
    found = linear_gelu(x, weight, bias)
    wanted = torch.nn.functional.gelu(x.double() @ weight.double().T + bias.double(), approximate="tanh")
    assert found.dtype == dtype
    assert (found - wanted).abs().max() <= (1e-5 if dtype == torch.float32 and device == "cpu" else 4e-2)
    assert (found - plain(x, weight, bias)).abs().max() <= (1e-5 if dtype == torch.float32 else 4e-2)
