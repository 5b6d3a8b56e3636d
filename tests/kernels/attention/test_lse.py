"""Attention with the log of its sums against the float32 formula, and the merge of partial results."""

import pytest
import torch

from reelray.kernels.attention.lse import attend_with_lse, merge_all, merge_partials
from reelray.kernels.attention.reference import (
    attend_reference,
    attend_with_lse_reference,
    merge_all_reference,
    merge_reference,
)
from tests.support.interpreted import interpreted_only

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


@pytest.mark.parametrize("sets", [1, 2, 5, 8])
def test_merging_many_sets_equals_attending_all_keys(sets) -> None:
    q, k, v = draw(9, 40, 2, 16)
    k[:, -5:] *= 3  # one set outweighs the others
    parts = [attend_with_lse(q, k[:, n * 5 : n * 5 + 5], v[:, n * 5 : n * 5 + 5]) for n in range(8 - sets, 8)]
    mixed, lse = merge_all(*(torch.stack(part) for part in zip(*parts, strict=True)))
    expected, expected_lse = attend_with_lse_reference(q, k[:, (8 - sets) * 5 :], v[:, (8 - sets) * 5 :])
    assert (mixed - expected).abs().max() <= 2e-6
    torch.testing.assert_close(lse, expected_lse, rtol=1e-6, atol=2e-6)


def draw_partials(sets, tokens, heads, width, *, dtype=torch.float32, device="cpu"):
    """Partial results of which some, and for some tokens all, are over no keys: those values are NaN."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(sets, 2, tokens, heads, width, generator=generator).to(dtype)
    lse = torch.randn(sets, 2, tokens, heads, generator=generator) * 30
    for part in range(sets):
        lse[part, :, part::3] = -torch.inf
    lse[:, 0, 1] = -torch.inf
    mixed[lse == -torch.inf] = torch.nan
    return mixed.to(device), lse.to(device)


def check_merged(found, mixed, lse, tolerance=2e-6) -> None:
    weight = lse.double().softmax(0).nan_to_num(0.0)[..., None]
    expected = (weight * mixed.double().nan_to_num(0.0)).sum(0)
    assert (found[0].double() - expected).abs().max() <= tolerance
    expected_lse = lse.double().logsumexp(0)
    empty = expected_lse == -torch.inf
    assert empty[0, 1].all()
    assert torch.equal(found[1] == -torch.inf, empty)
    assert not found[0][empty].any()
    torch.testing.assert_close(found[1][~empty].double(), expected_lse[~empty], rtol=1e-6, atol=2e-6)


def test_sets_without_keys_count_for_nothing_and_none_at_all_gives_nothing() -> None:
    mixed, lse = draw_partials(2, 7, 3, 16)
    check_merged(merge_reference(mixed[0], lse[0], mixed[1], lse[1], torch.float32), mixed, lse)
    mixed, lse = draw_partials(5, 7, 3, 16)
    check_merged(merge_all_reference(mixed, lse, torch.float32), mixed, lse)


@interpreted_only
@pytest.mark.parametrize(("heads", "width"), [(3, 64), (12, 40)])
def test_interpreted_kernel_merges_two_sets(heads, width) -> None:
    from reelray.kernels.attention.merge import merge

    mixed, lse = draw_partials(2, 5, heads, width)
    mixed[0, 1], lse[0, 1] = mixed[0, 1].nan_to_num(0.0), lse[0, 1].nan_to_num(neginf=-3.0)
    mixed = mixed.transpose(2, 3).contiguous().transpose(2, 3)
    check_merged(merge(mixed[0], lse[0], mixed[1], lse[1], torch.float32), mixed, lse)


@interpreted_only
@pytest.mark.parametrize("sets", [1, 3, 8])
@pytest.mark.parametrize(("heads", "width"), [(3, 64), (12, 40)])
def test_interpreted_kernel_merges_many_sets(sets, heads, width) -> None:
    from reelray.kernels.attention.merge import merge_all as merge_kernel

    mixed, lse = draw_partials(sets, 5, heads, width)
    check_merged(merge_kernel(mixed, lse, torch.float32), mixed, lse)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sets", [2, 8])
def test_cuda_kernels_merge_sets(sets, dtype) -> None:
    mixed, lse = draw_partials(sets, 130, 12, 128, dtype=dtype, device="cuda")
    check_merged(merge_all(mixed, lse), mixed, lse, 1e-5)
    if sets == 2:
        check_merged(merge_partials(mixed[0], lse[0], mixed[1], lse[1]), mixed, lse, 1e-5)


def test_too_many_sets_and_logs_of_other_values_are_refused() -> None:
    with pytest.raises(ValueError, match="1 to 8"):
        merge_all(torch.zeros(9, 1, 2, 1, 4), torch.zeros(9, 1, 2, 1))
    with pytest.raises(ValueError, match="logs"):
        merge_all(torch.zeros(2, 1, 2, 1, 4), torch.zeros(2, 1, 1, 1))
