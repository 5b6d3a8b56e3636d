"""Norm and activation behind the past: against the formula, and Triton against the reference."""

import pytest
import torch

from reelray.kernels.norm_silu import norm_silu
from reelray.kernels.norm_silu.reference import norm_silu_reference


def test_formula():
    x, gamma = torch.randn(2, 3, 2, 2, 6), torch.randn(6)
    past = torch.randn(2, 2, 2, 2, 6)
    found = norm_silu(x, gamma, past)
    unit = x / x.square().mean(-1, keepdim=True).sqrt() * gamma
    assert torch.equal(found[:, :2], past)
    torch.testing.assert_close(found[:, 2:], unit / (1 + torch.exp(-unit)), atol=1e-6, rtol=1e-5)


def test_without_a_norm_the_input_passes():
    x, past = torch.randn(1, 2, 2, 2, 4), torch.randn(1, 1, 2, 2, 4)
    assert torch.equal(norm_silu(x, None, past), torch.cat([past, x], dim=1))


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [96, 192, 384, 40])
@pytest.mark.parametrize("batch", [1, 3])
def test_triton_equals_the_reference(channels, batch):
    x = torch.randn(batch, 3, 7, 5, channels, device="cuda", dtype=torch.bfloat16)
    past = torch.randn(batch, 2, 7, 5, channels, device="cuda", dtype=torch.bfloat16)
    gamma = torch.randn(channels, device="cuda", dtype=torch.bfloat16)
    torch.testing.assert_close(norm_silu(x, gamma, past), norm_silu_reference(x, gamma, past), atol=0.016, rtol=0.008)
