"""Attention with the log of its sums against the float32 formula, and the merge of partial results."""

import pytest
import torch

from reelray.kernels.attention.lse import attend_with_lse, merge_partials
from reelray.kernels.attention.reference import attend_reference, attend_with_lse_reference

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
LOG_TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-4, torch.float16: 1e-4}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def draw(queries, keys, heads, width, *, device="cpu", dtype=torch.float32):
    torch.manual_seed(0)
    q = torch.randn(2, queries, heads, width, device=device).to(dtype)
    fused = torch.randn(2, keys, 3 * heads * width, device=device).to(dtype)
    k, v = (part.unflatten(-1, (heads, width)) for part in fused.chunk(3, -1)[1:])
    return q, k, v


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("width", [64, 12])
@pytest.mark.parametrize("size", [(1, 1, 1), (7, 19, 3), (130, 65, 2)])
def test_equals_the_formula(device, dtype, width, size) -> None:
    q, k, v = draw(*size, width, device=device, dtype=dtype)
    mixed, lse = attend_with_lse(q, k, v)
    assert mixed.shape == q.shape
    assert mixed.dtype == dtype
    assert lse.shape == q.shape[:3]
    assert lse.dtype == torch.float32
    expected, expected_lse = attend_with_lse_reference(q, k, v)
    assert (mixed.float() - expected.float()).abs().max() <= TOLERANCE[dtype]
    assert (lse - expected_lse).abs().max() <= LOG_TOLERANCE[dtype]


def test_the_reference_equals_attention_without_logs() -> None:
    q, k, v = draw(7, 19, 3, 16)
    assert torch.equal(attend_with_lse_reference(q, k, v)[0], attend_reference(q, k, v))


@pytest.mark.parametrize("shift", [0.0, 60.0, -60.0])
def test_merging_partial_results_equals_attending_all_keys(shift) -> None:
    q, k, v = draw(9, 20, 2, 16)
    k = torch.cat([k[:, :7], k[:, 7:] + shift * q.mean(1, keepdim=True)], 1)  # one side may outweigh the other
    mixed, lse = attend_with_lse(q, k[:, :3], v[:, :3])
    for keys in (slice(3, 7), slice(7, 20)):
        mixed, lse = merge_partials(mixed, lse, *attend_with_lse(q, k[:, keys], v[:, keys]))
    expected, expected_lse = attend_with_lse_reference(q, k, v)
    assert (mixed - expected).abs().max() <= 2e-6
    torch.testing.assert_close(lse, expected_lse, rtol=1e-6, atol=2e-6)
