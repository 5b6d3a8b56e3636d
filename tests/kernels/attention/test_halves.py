"""Attention over keys that are cut into parts against the formula; the merge kernel against its reference."""

import pytest
import torch

from reelray.kernels.attention import api, halves
from reelray.kernels.attention.halves import attend_in_parts, has_uneven_waves
from reelray.kernels.attention.reference import attend_reference, merge_reference
from tests.support.interpreted import interpreted_only

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
# rows, tokens, heads, head width
SIZES = [(1, 1, 1, 16), (2, 5, 3, 64), (3, 4, 12, 128), (2, 3, 40, 24)]


def draw(queries, keys, heads, width, *, device="cpu", dtype=torch.float32):
    torch.manual_seed(0)
    q = torch.randn(1, queries, heads, width, device=device).to(dtype)
    room = torch.randn(2, 1, keys + 3, heads, width, device=device).to(dtype)[:, :, :keys]
    return q, *room


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("shift", [0.0, 40.0])
def test_parts_give_what_all_keys_give(device, dtype, parts, shift) -> None:
    """One part may outweigh the others by far."""
    q, k, v = draw(7, 20, 3, 64, device=device, dtype=dtype)
    k[:, 10:] += (shift / 64) * q.mean(1, keepdim=True)
    found = attend_in_parts(q, k, v, parts=parts)
    assert found.shape == q.shape
    assert found.dtype == dtype
    assert (found.float() - attend_reference(q, k, v).float()).abs().max() <= TOLERANCE[dtype]


def draw_parts(size, dtype, device="cpu"):
    """Heads before tokens in memory, as cuDNN may leave them; logs that differ by much; the first set in float32."""
    rows, tokens, heads, width = size
    torch.manual_seed(0)
    mixed = torch.randn(2, rows, heads, tokens, width, device=device).transpose(2, 3)
    lse = (torch.randn(2, rows, heads, tokens, device=device) * 30).transpose(2, 3)
    return mixed[0], lse[0], mixed[1].to(dtype), lse[1]


@interpreted_only
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
def test_interpreted_merge_equals_reference(dtype, size) -> None:
    check_merge(*draw_parts(size, dtype), dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [*SIZES, (2, 4680, 12, 128)])
def test_cuda_merge_equals_reference(dtype, size) -> None:
    check_merge(*draw_parts(size, dtype, "cuda"), dtype)


def check_merge(mixed, lse, other, other_lse, dtype) -> None:
    from reelray.kernels.attention.merge import merge

    found, found_lse = merge(mixed, lse, other, other_lse, dtype)
    expected, expected_lse = merge_reference(mixed, lse, other, other_lse, dtype)
    assert found.shape == expected.shape
    assert found.dtype == dtype
    rounding = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    torch.testing.assert_close(found.float(), expected.float(), rtol=rounding, atol=1e-5)
    torch.testing.assert_close(found_lse, expected_lse, rtol=1e-6, atol=1e-5)


def test_keys_are_cut_where_it_was_measured_to_pay(monkeypatch) -> None:
    monkeypatch.setattr(halves, "_processors", lambda _: 132)

    def pays(queries, keys, heads, dtype=torch.bfloat16, batch=1):
        shape = torch.Size((batch, queries, heads, 128))
        q = torch.empty(1, dtype=dtype).expand(shape)
        return has_uneven_waves(q, torch.empty(1, dtype=dtype).expand(batch, keys, heads, 128))

    assert pays(4680, 18720, 12)
    assert pays(4680, 32760, 12)
    assert not pays(4680, 18720, 40)
    assert not pays(32760, 32760, 12)
    assert not pays(4680, 4680, 12)
    assert not pays(4680, 18721, 12)
    assert not pays(4680, 18720, 12, torch.float32)
    assert not pays(4680, 18720, 12, batch=2)


@pytest.mark.gpu
def test_a_chunk_over_its_memory_is_attended_right_on_a_gpu(monkeypatch) -> None:
    called = []
    monkeypatch.setattr(api, "attend_in_parts", lambda *parts: called.append(1) or attend_in_parts(*parts))
    q, k, v = draw(4680, 18720, 12, 128, device="cuda", dtype=torch.bfloat16)
    found = api.attend(q, k, v)
    assert called
    assert (found[:, ::97].float() - attend_reference(q[:, ::97], k, v).float()).abs().max() <= TOLERANCE[
        torch.bfloat16
    ]
