"""Tokens between pages and one tensor: against loops over single tokens, and the kernel against its reference."""

import pytest
import torch

from reelray.kernels.paged_tokens import api, reference
from tests.support.interpreted import interpreted_only

DTYPES = (torch.float32, torch.bfloat16)
# frames, tokens of a frame, rows of a page, layers, heads, width
SIZES = [(1, 1, 4, 1, 1, 6), (3, 5, 2, 2, 3, 16), (2, 4, 4, 3, 12, 8), (2, 7, 16, 1, 24, 32)]


def draw(size, dtype, device="cpu"):
    """Pages of an arena with others between, a workspace with rows around the place, a staging room, angles."""
    frames, tokens, rows, layers, heads, width = size
    torch.manual_seed(0)
    count = frames * -(-tokens // rows)
    arena = torch.randn(count + 3, layers * 2 * rows * heads * width + 8, device=device).to(dtype)
    pages = arena[:, : layers * 2 * rows * heads * width].unflatten(1, (layers, 2, rows, heads, width))
    places = torch.randperm(count + 3, device=device)[:count]
    total = frames * tokens
    workspace = torch.full((layers, 2, total + 3, heads, width), torch.nan, device=device).to(dtype)
    room = torch.randn(layers, 2, total + 2, heads, width, device=device).to(dtype)
    angles = torch.randn(total, width // 2, device=device) * 3
    return pages, places, workspace, room, angles


def token_of(pages, places, size, number):
    """Where one token lies, by division alone."""
    _, tokens, rows, *_ = size
    frame, within = divmod(number, tokens)
    per_frame = -(-tokens // rows)
    return pages[int(places[frame * per_frame + within // rows])][:, :, within % rows]


def check(module, size, dtype, device="cpu"):
    pages, places, workspace, room, angles = draw(size, dtype, device)
    total = size[0] * size[1]
    wanted = torch.stack([token_of(pages, places, size, number) for number in range(total)], 2).clone()
    module.lay_out(pages, places, workspace[:, :, :total], angles.cos(), angles.sin(), tokens=size[1])
    pairs = torch.view_as_complex(wanted[:, 0].double().unflatten(-1, (-1, 2)).contiguous())
    turned = torch.view_as_real(pairs * torch.exp(1j * angles.double())[:, None]).flatten(-2)
    assert torch.equal(workspace[:, 1, :total], wanted[:, 1])
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(workspace[:, 0, :total].double(), turned, **tolerance)
    assert workspace[:, :, total:].isnan().all()
    before, others = pages.clone(), [place for place in range(len(pages)) if place not in places.tolist()]
    module.take_in(room[:, :, :total], pages, places, tokens=size[1])
    for number in range(total):
        assert torch.equal(token_of(pages, places, size, number), room[:, :, number])
    assert torch.equal(pages[others], before[others])


@pytest.mark.parametrize("module", [reference, api])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_tokens_come_from_and_go_to_their_rows(module, dtype, size) -> None:
    check(module, size, dtype)


@interpreted_only
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_interpreted_kernel_finds_the_same_rows(dtype, size) -> None:
    from reelray.kernels.paged_tokens import triton as kernels

    check(kernels, size, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [*SIZES, (3, 1560, 128, 2, 12, 128)])
def test_cuda_kernel_finds_the_same_rows(dtype, size) -> None:
    check(api, size, dtype, "cuda")


def test_what_does_not_belong_together_is_refused() -> None:
    size = SIZES[1]
    pages, places, workspace, room, angles = draw(size, torch.float32)
    with pytest.raises(ValueError, match="do not hold"):
        api.take_in(room[:, :, :15], pages, places[:-1], tokens=5)
    with pytest.raises(ValueError, match="do not hold"):
        api.take_in(room[:, :, :14], pages, places, tokens=5)
    with pytest.raises(ValueError, match="must agree"):
        api.take_in(room[:1, :, :15], pages, places, tokens=5)
    with pytest.raises(ValueError, match="angles are of"):
        api.lay_out(pages, places, workspace[:, :, :15], angles[:3].cos(), angles[:3].sin(), tokens=5)
