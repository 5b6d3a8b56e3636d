"""The convolution against torch, its folded upsampling, and the Triton form against the reference."""

import pytest
import torch
from torch.nn import functional as F

from reelray.kernels.causal_conv3d import causal_conv3d, pack_conv
from reelray.kernels.causal_conv3d.reference import causal_conv3d_reference, fold_upsampling, spread_taps
from tests.support.interpreted import interpreted_only

CASES = [
    # kernel, channels in, channels out, frames, height, width
    ((3, 3, 3), 96, 96, 3, 21, 35),
    ((3, 3, 3), 192, 192, 2, 16, 16),
    ((3, 3, 3), 192, 384, 1, 9, 40),
    ((3, 3, 3), 96, 3, 2, 33, 17),
    ((3, 1, 1), 192, 384, 2, 12, 20),
    ((2, 3, 3), 64, 64, 3, 21, 35),
    ((1, 3, 3), 64, 3, 3, 21, 35),
    ((3, 3, 3), 384, 384, 8, 96, 96),
    ((3, 1, 1), 384, 768, 2, 12, 20),
]


def draw(kernel, inner, out, *size, device="cpu", dtype=torch.float32, batch=2):
    frames, height, width = size
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, frames + kernel[0] - 1, height, width, inner, generator=generator)
    weight = torch.randn(out, inner, *kernel, generator=generator) / (inner * 27) ** 0.5
    bias = torch.randn(out, generator=generator)
    return x.to(device, dtype), weight.to(device, dtype), bias.to(device, dtype)


@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 1, 1), (1, 1, 1)])
def test_reference_equals_a_plain_convolution(kernel):
    x, weight, bias = draw(kernel, 5, 7, 2, 6, 4)
    padding = (0, kernel[1] // 2, kernel[2] // 2)
    wanted = F.conv3d(x.permute(0, 4, 1, 2, 3), weight, bias, padding=padding).permute(0, 2, 3, 4, 1)
    residual = torch.randn_like(wanted)
    conv = pack_conv(weight, bias)
    torch.testing.assert_close(causal_conv3d(x, conv), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(causal_conv3d(x, conv, residual=residual), wanted + residual, atol=1e-5, rtol=0)
    found = causal_conv3d(x, conv, residual=residual, relu=True)
    torch.testing.assert_close(found, (wanted + residual).clamp_min(0), atol=1e-5, rtol=0)


def test_folded_upsampling_equals_upsampling_first():
    x, weight, bias = draw((1, 3, 3), 4, 3, 2, 5, 6)
    wanted = causal_conv3d_reference(x, weight, bias, upsample=True)
    folded = fold_upsampling(weight)
    for parity in range(4):
        py, px = divmod(parity, 2)
        padded = F.pad(x.permute(0, 4, 1, 2, 3), (1 - px, px, 1 - py, py))
        part = F.conv3d(padded, folded[parity], bias).permute(0, 2, 3, 4, 1)
        torch.testing.assert_close(part, wanted[:, :, py::2, px::2], atol=1e-5, rtol=0)


def test_products_of_neighbours_add_up_to_the_convolution():
    x, weight, bias = draw((3, 3, 3), 4, 3, 2, 5, 6)
    wanted = causal_conv3d_reference(x, weight, bias)
    products = causal_conv3d_reference(x, spread_taps(weight, 32), torch.zeros(32))
    assert products.shape == (2, 2, 5, 6, 32)
    assert not products[..., 27:].any()
    padded = F.pad(products, (0, 0, 1, 1, 1, 1))
    parts = [padded[:, :, kh : kh + 5, kw : kw + 6, 3 * (3 * kh + kw) :][..., :3] for kh in range(3) for kw in range(3)]
    torch.testing.assert_close(sum(parts) + bias, wanted, atol=1e-5, rtol=0)


def test_upsampling_wants_a_3x3_kernel():
    _, weight, bias = draw((1, 1, 1), 4, 3, 1, 2, 2)
    with pytest.raises(ValueError, match="1x1"):
        pack_conv(weight, bias, upsample=True)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("with_residual", [False, True])
def test_triton_equals_the_reference(case, with_residual):
    x, weight, bias = draw(*case, device="cuda", dtype=torch.bfloat16)
    conv = pack_conv(weight, bias)
    assert conv.packed is not None
    wanted = causal_conv3d_reference(x.float(), weight.float(), bias.float())
    residual = torch.randn_like(wanted).bfloat16() if with_residual else None
    wanted = wanted if residual is None else wanted + residual.float()
    found = causal_conv3d(x, conv, residual=residual).float()
    assert (found - wanted).abs().max() <= 2 * wanted.abs().max() * 2**-8
    assert torch.equal(causal_conv3d(x, conv, residual=residual, relu=True).float(), found.clamp_min(0))


@pytest.mark.gpu
@pytest.mark.parametrize("case", [((3, 3, 3), 384, 384, 8, 96, 96), ((3, 3, 3), 96, 96, 8, 240, 416)], ids=str)
def test_triton_gives_the_same_bits_again(case):
    """What is loaded too early into registers shows in a few tiles of one run in many."""
    x, weight, bias = draw(*case, device="cuda", dtype=torch.bfloat16)
    conv = pack_conv(weight, bias)
    first = causal_conv3d(x, conv)
    assert all(torch.equal(causal_conv3d(x, conv), first) for _ in range(40))


@pytest.mark.gpu
@pytest.mark.parametrize(("inner", "out"), [(384, 192), (192, 96)])
def test_triton_folds_upsampling(inner, out):
    x, weight, bias = draw((1, 3, 3), inner, out, 2, 19, 30, device="cuda", dtype=torch.bfloat16)
    conv = pack_conv(weight, bias, upsample=True)
    assert conv.packed is not None
    wanted = causal_conv3d_reference(x.float(), weight.float(), bias.float(), upsample=True)
    found = causal_conv3d(x, conv).float()
    assert (found - wanted).norm() / wanted.norm() <= 6e-3


@interpreted_only
@pytest.mark.parametrize("channels", [16, 24])
@pytest.mark.parametrize(("kernel", "upsample"), [((3, 3, 3), False), ((1, 3, 3), True), ((3, 1, 1), False)], ids=str)
def test_interpreted_kernel_equals_the_reference(kernel, upsample, channels):
    from reelray.kernels.causal_conv3d.triton import Tile, causal_conv3d_triton, pack_weight

    x, weight, bias = draw(kernel, 16, 44, 2, 5, 6, batch=1)
    packed = pack_weight(fold_upsampling(weight) if upsample else weight[None], torch.float32)
    tile = Tile(rows=4, columns=4, channels=channels, depth=8, warps=4, stages=1)
    assert tile.wide + tile.narrow == channels
    wanted = causal_conv3d_reference(x, weight, bias, upsample=upsample)
    residual = torch.randn_like(wanted)
    found = causal_conv3d_triton(x, packed, bias, kernel, tile, residual=residual, upsample=upsample)
    torch.testing.assert_close(found, wanted + residual, atol=1e-4, rtol=0)
    cut = causal_conv3d_triton(x, packed, bias, kernel, tile, residual=residual, upsample=upsample, relu=True)
    assert torch.equal(cut, found.clamp_min(0))


@interpreted_only
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3)], ids=str)
def test_interpreted_sums_of_products_equal_the_reference(kernel):
    from reelray.kernels.causal_conv3d.gather import gather_taps
    from reelray.kernels.causal_conv3d.triton import Tile, causal_conv3d_triton, pack_weight

    x, weight, bias = draw(kernel, 16, 3, 2, 5, 134, batch=2)
    packed = pack_weight(spread_taps(weight, 32)[None], torch.float32)
    tile = Tile(rows=4, columns=16, channels=32, depth=8, warps=4, stages=1)
    products = causal_conv3d_triton(
        x, packed, torch.zeros(32), (kernel[0], 1, 1), tile, residual=None, upsample=False, dtype=torch.float32
    )
    wanted = causal_conv3d_reference(x, weight, bias)
    residual = torch.randn_like(wanted)
    found = gather_taps(products, bias, (3, 3), torch.float32, residual=None, relu=False)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    found = gather_taps(products, bias, (3, 3), torch.float32, residual=residual, relu=True)
    torch.testing.assert_close(found, (wanted + residual).clamp_min(0), atol=1e-4, rtol=0)


def cut_rows(x):
    """Rows 2 to the last but one, as a view: what lies around them must count as zeros, not as neighbours."""
    return x[:, :, 2:-1]


@interpreted_only
@pytest.mark.parametrize("upsample", [False, True])
def test_interpreted_kernel_takes_a_cut_of_rows(upsample):
    from reelray.kernels.causal_conv3d.triton import Tile, causal_conv3d_triton, pack_weight

    x, weight, bias = draw((1, 3, 3), 16, 12, 2, 8, 6, batch=2)
    packed = pack_weight(fold_upsampling(weight) if upsample else weight[None], torch.float32)
    tile = Tile(rows=4, columns=4, channels=16, depth=8, warps=4, stages=1)
    wanted = causal_conv3d_reference(cut_rows(x).contiguous(), weight, bias, upsample=upsample)
    found = causal_conv3d_triton(cut_rows(x), packed, bias, (1, 3, 3), tile, residual=None, upsample=upsample)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize(("inner", "out"), [(384, 192), (192, 96)])
def test_triton_upsamples_a_cut_of_rows(inner, out):
    x, weight, bias = draw((1, 3, 3), inner, out, 2, 19, 30, device="cuda", dtype=torch.bfloat16)
    conv = pack_conv(weight, bias, upsample=True)
    assert conv.packed is not None
    assert torch.equal(causal_conv3d(cut_rows(x), conv), causal_conv3d(cut_rows(x).contiguous(), conv))
