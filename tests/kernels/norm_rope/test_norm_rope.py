"""Norm and rotation: the kernel against its reference, the reference against complex numbers."""

import pytest
import torch

from reelray.kernels.norm_rope import api, reference
from tests.support.interpreted import interpreted_only

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 4e-3}
# batch, tokens, heads, head width
SIZES = [(1, 1, 1, 6), (2, 5, 3, 16), (2, 3, 5, 64), (1, 3, 24, 6)]


def draw(size, dtype, device="cpu"):
    batch, tokens, heads, width = size
    torch.manual_seed(0)
    fused = torch.randn(batch, tokens, 3 * heads * width, device=device).to(dtype)
    weight = (torch.randn(heads * width, device=device) * 0.3 + 1).to(dtype)
    angles = torch.randn(batch, tokens, width // 2, device=device) * 3
    return fused.chunk(3, dim=-1)[1], weight, angles


@pytest.mark.parametrize("compiling", [False, True])
def test_reference_is_a_complex_product(monkeypatch, compiling) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    x, weight, angles = draw((2, 5, 3, 16), torch.float32)
    exact = x.double()
    exact = exact / (exact.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    turned = torch.view_as_complex(exact.view(2, 5, 3, 8, 2)) * torch.exp(1j * angles.double())[:, :, None]
    found = reference.norm_heads(x, weight, 3, eps=1e-6, cos_BSP=angles.cos(), sin_BSP=angles.sin())
    assert (found - torch.view_as_real(turned).flatten(-2)).abs().max() < 1e-5
    plain = reference.norm_heads(x, weight, 3, eps=1e-6)
    assert (plain - exact.view(2, 5, 3, 16)).abs().max() < 1e-5


@interpreted_only
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
def test_interpreted_kernel_equals_reference(monkeypatch, dtype, size) -> None:
    from reelray.kernels.norm_rope import triton as kernels

    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(torch.nan))
    check(kernels, *draw(size, dtype), heads=size[2])
    check_rotation(kernels, *draw(size, dtype), heads=size[2])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [*SIZES, (1, 4680, 12, 128), (2, 40, 40, 128)])
def test_cuda_kernel_equals_reference(dtype, size) -> None:
    from reelray.kernels.norm_rope import triton as kernels

    check(kernels, *draw(size, dtype, "cuda"), heads=size[2])
    check_rotation(kernels, *draw(size, dtype, "cuda"), heads=size[2])


def check(kernels, x, weight, angles, *, heads) -> None:
    for rows in (angles, angles[:1]):
        cos, sin = rows.cos(), rows.sin()
        wanted = reference.norm_heads(x, weight, heads, eps=1e-6, cos_BSP=cos, sin_BSP=sin)
        found = kernels.norm_heads(x, weight, heads, 1e-6, cos, sin)
        assert found.shape == wanted.shape
        assert found.dtype == x.dtype
        assert (found - wanted).abs().max() <= TOLERANCE[x.dtype]
    found = kernels.norm_heads(x, weight, heads, 1e-6, None, None)
    assert (found - reference.norm_heads(x, weight, heads, eps=1e-6)).abs().max() <= TOLERANCE[x.dtype]


def check_rotation(kernels, x, _, angles, *, heads) -> None:
    """Of strided heads, as a slice of a fused projection and as heads of a workspace."""
    for rows in (angles, angles[:1]):
        for heads_BSND in (x.unflatten(-1, (heads, -1)), x.unflatten(-1, (heads, -1)).transpose(0, 1)[:, :1]):
            cos, sin = (part[:, : heads_BSND.shape[1]] for part in (rows.cos(), rows.sin()))
            if cos.shape[0] not in {1, heads_BSND.shape[0]}:
                continue
            wanted = reference.rotate(heads_BSND, cos, sin)
            found = kernels.rotate(heads_BSND, cos, sin)
            assert found.shape == wanted.shape
            assert (found - wanted).abs().max() <= TOLERANCE[x.dtype]


def test_cpu_takes_the_reference() -> None:
    x, weight, angles = draw((2, 5, 3, 16), torch.float32)
    cos, sin = angles.cos(), angles.sin()
    found = api.norm_heads(x, weight, 3, eps=1e-6, cos_BSP=cos, sin_BSP=sin)
    assert torch.equal(found, reference.norm_heads(x, weight, 3, eps=1e-6, cos_BSP=cos, sin_BSP=sin))
    heads = x.unflatten(-1, (3, -1))
    assert torch.equal(api.rotate(heads, cos, sin), reference.rotate(heads, cos, sin))
