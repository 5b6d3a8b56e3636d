"""Copies of keys and values: the kernel against its reference, and what the door refuses."""

import pytest
import torch

from reelray.kernels.put_tokens import api, reference
from tests.support.interpreted import interpreted_only

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SIZES = [(1, 1, 6), (5, 3, 16), (7, 24, 64), (3, 12, 128)]


def draw(size, dtype, device="cpu"):
    """Keys of their own, values as a slice of a projection, and a workspace with rows around the place."""
    tokens, heads, width = size
    torch.manual_seed(0)
    keys = torch.randn(size, device=device).to(dtype)
    fused = torch.randn(tokens, 3 * heads * width, device=device).to(dtype)
    values = fused.chunk(3, dim=-1)[2].unflatten(-1, (heads, width))
    room = torch.full((2, tokens + 4, heads, width), torch.nan, dtype=dtype, device=device)
    return keys, values, room


def check(put, keys, values, room):
    places = room[:, 2 : 2 + len(keys)]
    put(keys, values, *places)
    assert torch.equal(places[0], keys)
    assert torch.equal(places[1], values)
    assert room[:, :2].isnan().all()
    assert room[:, 2 + len(keys) :].isnan().all()


@interpreted_only
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_interpreted_kernel_copies_every_bit(dtype, size) -> None:
    from reelray.kernels.put_tokens import triton as kernels

    check(kernels.put_tokens, *draw(size, dtype))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [*SIZES, (4680, 12, 128), (40, 40, 128)])
def test_cuda_kernel_copies_every_bit(dtype, size) -> None:
    check(api.put_tokens, *draw(size, dtype, "cuda"))


@pytest.mark.gpu
def test_heads_apart_are_copied_on_a_gpu_too() -> None:
    keys, values, room = draw((5, 4, 16), torch.bfloat16, "cuda")
    api.put_tokens(keys[:, ::2], values[:, ::2], *room[:, 2:7, 1:3])
    assert torch.equal(room[0, 2:7, 1:3], keys[:, ::2])
    assert torch.equal(room[1, 2:7, 1:3], values[:, ::2])


@pytest.mark.parametrize("put", [api.put_tokens, reference.put_tokens])
@pytest.mark.parametrize("size", SIZES)
def test_a_cpu_copies_every_bit(put, size) -> None:
    check(put, *draw(size, torch.float32))


def test_what_does_not_agree_is_refused() -> None:
    keys, values, room = draw((5, 3, 16), torch.float32)
    with pytest.raises(ValueError, match="must agree"):
        api.put_tokens(keys, values, *room[:, :4])
    with pytest.raises(ValueError, match="must agree"):
        api.put_tokens(keys.half(), values, *room[:, :5])
