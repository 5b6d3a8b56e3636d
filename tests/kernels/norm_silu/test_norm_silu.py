"""Norm and activation behind the past: against the formula, and Triton against the reference."""

import pytest
import torch

from reelray.kernels.norm_silu import norm_silu
from reelray.kernels.norm_silu.reference import norm_silu_reference
from tests.support.interpreted import interpreted_only


def test_formula():
    x, gamma = torch.randn(2, 3, 2, 2, 6), torch.randn(6)
    past = torch.randn(2, 2, 2, 2, 6)
    found, newest = norm_silu(x, gamma, past)
    unit = x / x.square().mean(-1, keepdim=True).sqrt() * gamma
    assert torch.equal(found[:, :2], past)
    torch.testing.assert_close(found[:, 2:], unit / (1 + torch.exp(-unit)), atol=1e-6, rtol=1e-5)
    assert torch.equal(newest, found[:, -2:])


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("with_norm", [False, True])
def test_the_newest_frames_are_a_copy(frames, with_norm):
    x, past = torch.randn(1, frames, 2, 2, 4), torch.randn(1, 3, 2, 2, 4)
    joined, newest = norm_silu(x, torch.ones(4) if with_norm else None, past)
    assert torch.equal(newest, joined[:, -3:])
    assert newest.untyped_storage().data_ptr() != joined.untyped_storage().data_ptr()


def test_without_a_norm_the_input_passes():
    x, past = torch.randn(1, 2, 2, 2, 4), torch.randn(1, 1, 2, 2, 4)
    assert torch.equal(norm_silu(x, None, past)[0], torch.cat([past, x], dim=1))


@interpreted_only
@pytest.mark.parametrize("channels", [10, 12, 24])
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_interpreted_kernel_equals_the_reference(channels, frames):
    from reelray.kernels.norm_silu.triton import norm_silu_triton

    x, gamma, past = torch.randn(2, frames, 3, 7, channels), torch.randn(channels), torch.randn(2, 2, 3, 7, channels)
    past = past.permute(0, 4, 1, 2, 3).contiguous().permute(0, 2, 3, 4, 1)
    for found, wanted in zip(norm_silu_triton(x, gamma, past), norm_silu_reference(x, gamma, past), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [96, 192, 384, 40])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("frames", [1, 3])
def test_triton_equals_the_reference(channels, batch, frames):
    x = torch.randn(batch, frames, 7, 5, channels, device="cuda", dtype=torch.bfloat16)
    past = torch.randn(batch, 2, 7, 5, channels, device="cuda", dtype=torch.bfloat16)
    gamma = torch.randn(channels, device="cuda", dtype=torch.bfloat16)
    for found, wanted in zip(norm_silu(x, gamma, past), norm_silu_reference(x, gamma, past), strict=True):
        torch.testing.assert_close(found, wanted, atol=0.016, rtol=0.008)
