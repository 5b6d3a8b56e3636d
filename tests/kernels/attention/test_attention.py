"""Attention against the float32 formula."""

import pytest
import torch

from reelray.kernels.attention.api import attend
from reelray.kernels.attention.reference import attend_reference
from tests.support.interpreted import interpreted_only

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("size", [(1, 1, 1), (7, 19, 3), (130, 65, 2)])
def test_equals_the_formula(device, dtype, biased, size) -> None:
    queries, keys, heads = size
    torch.manual_seed(0)
    q = torch.randn(2, queries, heads, 64, device=device).to(dtype)
    fused = torch.randn(2, keys, 3 * heads * 64, device=device).to(dtype)
    k, v = (part.unflatten(-1, (heads, 64)) for part in fused.chunk(3, -1)[1:])
    bias = None
    if biased:
        bias = torch.randn(2, keys, device=device)
        bias[0, keys // 2 + 1 :] = -torch.inf
        bias = bias.to(dtype)
    found = attend(q, k, v, bias_BK=bias)
    assert found.shape == q.shape
    assert found.dtype == dtype
    expected = attend_reference(q.double().float(), k.float(), v.float(), bias)
    assert (found.float() - expected).abs().max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("size", [(7, 19, 3), (130, 32, 2), (200, 200, 2)])
def test_gradients_equal_the_formula(device, biased, size) -> None:
    queries, keys, heads = size
    torch.manual_seed(0)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    parts = [torch.randn(2, n, heads, 64, device=device).to(dtype) for n in (queries, keys, keys)]
    bias = None
    if biased:
        bias = torch.randn(2, keys, device=device).to(dtype)
        bias[:, -3:] = 4.0  # a few slots that stand for many, as merged padding does
    weights = torch.randn(2, queries, heads, 64, device=device)
    found, wanted = (
        torch.autograd.grad((form(*leaves, bias_BK=bias) * weights).sum(), leaves)
        for form, leaves in ((attend, leaves_of(parts)), (attend_reference, leaves_of([p.float() for p in parts])))
    )
    for ours, truth in zip(found, wanted, strict=True):
        assert (ours.float() - truth).norm() <= (1e-5 if device == "cpu" else 2e-2) * truth.norm()


FEW = [(1, 1, 1, 128), (7, 19, 3, 64), (130, 65, 2, 128), (257, 128, 2, 32)]


@interpreted_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])  # the interpreter multiplies bfloat16 as integers
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("size", FEW)
def test_interpreted_kernel_for_few_keys_equals_the_formula(dtype, biased, size) -> None:
    check_few_keys(dtype, biased, size, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("size", [*FEW, (4680, 64, 12, 128)])
def test_cuda_kernel_for_few_keys_equals_the_formula(dtype, biased, size) -> None:
    check_few_keys(dtype, biased, size, "cuda")


def check_few_keys(dtype, biased, size, device) -> None:
    from reelray.kernels.attention.triton import attend_few_keys

    queries, keys, heads, width = size
    torch.manual_seed(0)
    q = torch.randn(2, queries, heads, width, device=device).to(dtype)
    fused = torch.randn(2, keys, 3 * heads * width, device=device).to(dtype)
    k, v = (part.unflatten(-1, (heads, width)) for part in fused.chunk(3, -1)[1:])
    bias = None
    if biased:
        bias = torch.randn(2, keys, device=device)
        bias[0, keys // 2 + 1 :] = -torch.inf
        bias = bias.to(dtype)
    found, expected = attend_few_keys(q, k, v, bias), attend_reference(q, k, v, bias)
    assert found.shape == q.shape
    assert (found.float() - expected.float()).abs().max() <= TOLERANCE[dtype]


def leaves_of(tensors):
    return [tensor.clone().requires_grad_() for tensor in tensors]


def test_hidden_keys_are_not_read() -> None:
    q, k, v = (torch.randn(1, 5, 2, 64) for _ in range(3))
    bias = torch.tensor([[0.0, 0.0, 0.0, -torch.inf, -torch.inf]])
    short = attend(q, k[:, :3], v[:, :3])
    assert (attend(q, k, v, bias_BK=bias) - short).abs().max() <= 1e-6


def test_compiles_without_breaks_and_differentiates() -> None:
    q, k, v = (torch.randn(1, 5, 2, 64, requires_grad=True) for _ in range(3))
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    compiled(q, k, v).sum().backward()
    expected = torch.autograd.grad(attend_reference(q, k, v).sum(), v)[0]
    torch.testing.assert_close(v.grad, expected)
