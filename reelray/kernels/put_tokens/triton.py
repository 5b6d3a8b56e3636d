"""Copies of keys and values in one launch, as a Triton kernel.

to[s] = from[s] for keys and values; one program copies one token of both. Reference: reference.py; exact.
Shape suffixes: S tokens, N heads, D head width.
"""

# Kernels take bare pointers by position.
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

BLOCK = 1024


@triton.jit
def _put_tokens_kernel(
    keys_ptr,
    values_ptr,
    to_keys_ptr,
    to_values_ptr,
    keys_row,
    values_row,
    to_keys_row,
    to_values_row,
    channels,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    for first in range(0, channels, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < channels
        key = tl.load(keys_ptr + row * keys_row + column, mask=inside)
        value = tl.load(values_ptr + row * values_row + column, mask=inside)
        tl.store(to_keys_ptr + row * to_keys_row + column, key, mask=inside)
        tl.store(to_values_ptr + row * to_values_row + column, value, mask=inside)


@triton_op("reelray::put_tokens", mutates_args={"to_keys_SND", "to_values_SND"})
def put_tokens(keys_SND: Tensor, values_SND: Tensor, to_keys_SND: Tensor, to_values_SND: Tensor) -> None:
    """Do what `reference.put_tokens` does, on rows whose channels are contiguous."""
    tokens, heads, width = keys_SND.shape
    kernel = (
        wrap_triton(_put_tokens_kernel) if isinstance(_put_tokens_kernel, triton.JITFunction) else _put_tokens_kernel
    )
    kernel[(tokens,)](
        keys_SND,
        values_SND,
        to_keys_SND,
        to_values_SND,
        keys_SND.stride(0),
        values_SND.stride(0),
        to_keys_SND.stride(0),
        to_values_SND.stride(0),
        heads * width,
        BLOCK=BLOCK,
        num_warps=4,
    )
