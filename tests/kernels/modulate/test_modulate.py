"""The modulation kernel against its reference, and the reference against its formula."""

import pytest
import torch

from reelray.kernels.modulate import api, reference
from tests.support.interpreted import interpreted_only

# Absolute and relative: two rounding steps in half precision (the interpreter truncates where a GPU rounds).
TOLERANCE = {torch.float32: (1e-5, 1e-5), torch.bfloat16: (4e-2, 1.6e-2), torch.float16: (5e-3, 2e-3)}
# batch, groups, tokens of a group, channels
SIZES = [(1, 1, 1, 8), (2, 3, 5, 48), (2, 1, 7, 130)]


def draw(size, dtype, device="cpu"):
    batch, groups, count, channels = size
    torch.manual_seed(0)
    x, update = (torch.randn(batch, groups * count, channels, device=device).to(dtype) for _ in range(2))
    table = torch.randn(batch, groups, 3, channels, device=device)
    return x, update, *table.unbind(2)


def test_reference_is_the_formula() -> None:
    x, update, gate, gain, shift = draw((2, 3, 5, 48), torch.float32)
    gate, gain, shift = (part.repeat_interleave(5, dim=1).double() for part in (gate, gain, shift))
    total = x.double() + update.double() * gate
    centred = total - total.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain + shift
    found = reference.add_norm_modulate(x, update, *(p[:, ::5].float() for p in (gate, gain, shift)), eps=1e-6)
    assert (found[0] - total).abs().max() < 1e-5
    assert (found[1] - normed).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(1, 1, 40, 256), (2, 3, 5, 48)])
def test_the_cpu_rounds_products_as_diffusers_does(size) -> None:
    """A product that is rounded only with the sum is another number, which samplers amplify."""
    x, update, gate, gain, shift = draw(size, torch.float32)
    spread = [part.repeat_interleave(size[2], dim=1) for part in (gate, gain, shift)]
    total = x + update * spread[0]
    assert torch.equal(reference.add_gated(x, update, gate), total)
    modulated = torch.nn.functional.layer_norm(total, x.shape[-1:], eps=1e-6) * spread[1] + spread[2]
    assert torch.equal(reference.add_norm_modulate(x, update, gate, gain, shift, eps=1e-6)[1], modulated)
    affine = torch.nn.functional.layer_norm(total, x.shape[-1:], gain[0, 0], shift[0, 0], 1e-6)
    found = api.add_norm(x, update, gate, gain[0, 0], shift[0, 0], eps=1e-6)
    assert torch.equal(found[0], total)
    assert torch.equal(found[1], affine)


@interpreted_only
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("gated", [False, True])
def test_interpreted_kernel_equals_reference(monkeypatch, dtype, size, gated) -> None:
    from reelray.kernels.modulate import triton as kernels

    poison_empty(monkeypatch)
    check(kernels, draw(size, dtype), gated=gated)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [*SIZES, (1, 3, 1560, 1536), (1, 1, 40, 5120)])
@pytest.mark.parametrize("gated", [False, True])
def test_cuda_kernel_equals_reference(dtype, size, gated) -> None:
    from reelray.kernels.modulate import triton as kernels

    check(kernels, draw(size, dtype, "cuda"), gated=gated)


def check(kernels, drawn, *, gated) -> None:
    x, update, gate, gain, shift = drawn
    gate = gate if gated else None
    one = gain[:1, :1]  # an affine norm serves every row and group
    for parts in ((gain, shift), (one, one)):
        wanted = reference.add_norm_modulate(x, update, gate, *parts, eps=1e-6)
        found = kernels.add_norm_modulate(x, update, gate, *parts, 1e-6)
        for ours, theirs in zip(found, wanted, strict=True):
            assert_near(ours, theirs)
    assert_near(kernels.norm_modulate(x, gain, shift, 1e-6), reference.norm_modulate(x, gain, shift, eps=1e-6))
    if gate is not None:
        assert_near(kernels.add_gated(x, update, gate), reference.add_gated(x, update, gate))


@interpreted_only
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
def test_interpreted_rows_equal_reference(monkeypatch, dtype, size) -> None:
    poison_empty(monkeypatch)
    check_rows(size, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [*SIZES, (1, 3, 1, 1536), (1, 1, 1, 5120)])
def test_cuda_rows_equal_reference(dtype, size) -> None:
    check_rows(size, dtype, "cuda")


def check_rows(size, dtype, device) -> None:
    from reelray.kernels.modulate import triton as kernels

    batch, groups, _, channels = size
    torch.manual_seed(0)
    table, time = (torch.randn(*lead, 6, channels, device=device).to(dtype) for lead in ((1,), (batch, groups)))
    for ours, theirs in zip(kernels.modulation_of(table, time), reference.modulation_of(table, time), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)


def test_rows_are_shift_gain_and_gate_twice() -> None:
    table, time = torch.randn(1, 6, 8), torch.randn(2, 3, 6, 8)
    rows = reference.modulation_of(table, time)
    for part, row in enumerate(rows):
        assert torch.equal(row, table[:, part] + time[:, :, part] + (1 if part in {1, 4} else 0))


def assert_near(ours, theirs) -> None:
    atol, rtol = TOLERANCE[theirs.dtype]
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=rtol)


def poison_empty(monkeypatch) -> None:
    empty_like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(torch.nan))


def test_cpu_takes_the_reference() -> None:
    x, update, gate, gain, shift = draw((2, 3, 5, 48), torch.float32)
    assert torch.equal(api.norm_modulate(x, gain, shift, eps=1e-6), reference.norm_modulate(x, gain, shift, eps=1e-6))
    found = api.add_norm_modulate(x, update, gate, gain, shift, eps=1e-6)
    assert torch.equal(found[1], reference.add_norm_modulate(x, update, gate, gain, shift, eps=1e-6)[1])
    assert torch.equal(api.add_gated(x, update, gate), reference.add_gated(x, update, gate))
