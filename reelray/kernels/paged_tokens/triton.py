"""Copies of tokens between pages and one tensor, as a Triton kernel: all layers, keys and values in one launch.

One program copies one token of one layer; keys are rotated in float32 on the way out. Reference: reference.py; values
exact, keys within one rounding step.
Shape suffixes: P pages, Q pages in the order of their frames, L layers, 2 keys and values, R rows of a page, S tokens,
N heads, D head width.
"""

# Kernels take bare pointers by position.
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import math

import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

GROUPED = 8
"""Most heads of a token at once, a power of two."""
ELEMENTS_PER_WARP = 256


@triton.jit
def _paged_tokens_kernel(
    pages_ptr,
    places_ptr,
    flat_ptr,
    cos_ptr,
    sin_ptr,
    tokens,
    page_stride,
    page_layer,
    page_part,
    flat_layer,
    flat_part,
    OUT: tl.constexpr,
    ROWS: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    layer = tl.program_id(1).to(tl.int64)
    frame = token // tokens
    within = token % tokens
    pages = (tokens + ROWS - 1) // ROWS
    place = tl.load(places_ptr + frame * pages + within // ROWS)
    head = tl.arange(0, GROUP)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (column < WIDTH) & (head < GROUP)
    here = head * WIDTH + column
    paged = pages_ptr + place * page_stride + layer * page_layer + (within % ROWS) * (HEADS * WIDTH) + here
    flat = flat_ptr + layer * flat_layer + token * (HEADS * WIDTH) + here
    if OUT:
        pair = tl.arange(0, BLOCK // 2)[None, :]
        angle = token * (WIDTH // 2) + pair
        cos = tl.load(cos_ptr + angle, mask=pair < WIDTH // 2, other=0.0)
        sin = tl.load(sin_ptr + angle, mask=pair < WIDTH // 2, other=0.0)
    for group in tl.static_range(HEADS // GROUP):
        heads = group * GROUP * WIDTH
        if OUT:
            key = tl.load(paged + heads, mask=inside, other=0.0).to(tl.float32)
            value = tl.load(paged + page_part + heads, mask=inside, other=0.0)
            even, odd = tl.split(tl.reshape(key, (GROUP, BLOCK // 2, 2)))
            key = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (GROUP, BLOCK))
            tl.store(flat + heads, key.to(flat_ptr.dtype.element_ty), mask=inside)
            tl.store(flat + flat_part + heads, value, mask=inside)
        else:
            key = tl.load(flat + heads, mask=inside, other=0.0)
            value = tl.load(flat + flat_part + heads, mask=inside, other=0.0)
            tl.store(paged + heads, key, mask=inside)
            tl.store(paged + page_part + heads, value, mask=inside)


def has_rows(tensor: Tensor) -> bool:
    """Whether heads and channels of a token lie side by side, and tokens one after the other."""
    heads, width = tensor.shape[-2:]
    return tensor.stride()[-3:] == (heads * width, width, 1)


@triton_op("reelray::lay_out_pages", mutates_args={"to_L2SND"})
def lay_out(
    pages_PL2RND: Tensor, places_Q: Tensor, to_L2SND: Tensor, cos_SP: Tensor, sin_SP: Tensor, *, tokens: int
) -> None:
    """Do what `reference.lay_out` does, on tensors that have rows (`has_rows`)."""
    _launch(pages_PL2RND, places_Q, to_L2SND, (cos_SP.contiguous(), sin_SP.contiguous()), tokens)


@triton_op("reelray::take_in_pages", mutates_args={"pages_PL2RND"})
def take_in(room_L2SND: Tensor, pages_PL2RND: Tensor, places_Q: Tensor, *, tokens: int) -> None:
    """Do what `reference.take_in` does, on tensors that have rows (`has_rows`)."""
    _launch(pages_PL2RND, places_Q, room_L2SND, None, tokens)


def _launch(
    pages_PL2RND: Tensor, places_Q: Tensor, flat_L2SND: Tensor, angles: tuple[Tensor, Tensor] | None, tokens: int
) -> None:
    layers, _, count, heads, width = flat_L2SND.shape
    group, block = math.gcd(heads, GROUPED), triton.next_power_of_2(width)
    kernel = (
        wrap_triton(_paged_tokens_kernel)
        if isinstance(_paged_tokens_kernel, triton.JITFunction)
        else _paged_tokens_kernel
    )
    cos_SP, sin_SP = angles or (places_Q, places_Q)
    kernel[(count, layers)](
        pages_PL2RND,
        places_Q,
        flat_L2SND,
        cos_SP,
        sin_SP,
        tokens,
        *pages_PL2RND.stride()[:3],
        *flat_L2SND.stride()[:2],
        OUT=angles is not None,
        ROWS=pages_PL2RND.shape[3],
        HEADS=heads,
        WIDTH=width,
        GROUP=group,
        BLOCK=block,
        num_warps=max(1, min(8, group * block // ELEMENTS_PER_WARP)),
    )
