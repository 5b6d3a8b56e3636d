"""One pass: read x once, write the normalised, activated rows behind the past, and the newest a second time."""

# Kernels take bare pointers by position.
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 32
THIRDS = 3


@triton.jit
def _put(x, gain, gamma_ptr, y_ptr, newest_ptr, mask, newest_mask):
    """Activate one part of some rows and store it."""
    unit = x * gain * tl.load(gamma_ptr).to(tl.float32)[None, :]
    y = (unit * tl.sigmoid(unit)).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr, y, mask=mask)
    tl.store(newest_ptr, y, mask=newest_mask)


@triton.jit
def _norm_silu_kernel(
    x_ptr,
    gamma_ptr,
    y_ptr,
    newest_ptr,
    rows,
    rows_per_video,
    past_rows,
    scale,
    C: tl.constexpr,
    PARTS: tl.constexpr,
    CP: tl.constexpr,
    R: tl.constexpr,
):
    part: tl.constexpr = C // PARTS
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    video = row // rows_per_video
    out = row + (video + 1) * past_rows
    age = (video + 1) * rows_per_video - row
    newest = (video + 1) * past_rows - age
    c = tl.arange(0, CP)
    mask = (row < rows)[:, None] & (c < part)[None, :]
    newest_mask = mask & (age <= past_rows)[:, None]
    x_ptrs = x_ptr + row[:, None] * C + c[None, :]
    y_ptrs = y_ptr + out[:, None] * C + c[None, :]
    newest_ptrs = newest_ptr + newest[:, None] * C + c[None, :]
    gamma_ptrs = gamma_ptr + c
    x = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    if PARTS == 1:
        gain = scale / tl.maximum(tl.sqrt(tl.sum(x * x, axis=1)), 1e-12)
        unit = x * gain[:, None] * tl.load(gamma_ptrs, mask=c < C, other=0.0).to(tl.float32)[None, :]
        y = (unit * tl.sigmoid(unit)).to(y_ptr.dtype.element_ty)
        tl.store(y_ptrs, y, mask=mask)
        tl.store(newest_ptrs, y, mask=newest_mask)
    else:
        # Three parts, each a power of two wide, in place of one that is a quarter empty.
        x1 = tl.load(x_ptrs + part, mask=mask, other=0.0).to(tl.float32)
        x2 = tl.load(x_ptrs + 2 * part, mask=mask, other=0.0).to(tl.float32)
        gain = (scale / tl.maximum(tl.sqrt(tl.sum(x * x + x1 * x1 + x2 * x2, axis=1)), 1e-12))[:, None]
        _put(x, gain, gamma_ptrs, y_ptrs, newest_ptrs, mask, newest_mask)
        _put(x1, gain, gamma_ptrs + part, y_ptrs + part, newest_ptrs + part, mask, newest_mask)
        _put(x2, gain, gamma_ptrs + 2 * part, y_ptrs + 2 * part, newest_ptrs + 2 * part, mask, newest_mask)


def norm_silu_triton(x_BTHWC: Tensor, gamma_C: Tensor, past_BPHWC: Tensor) -> tuple[Tensor, Tensor]:
    """Launch the kernel; arguments as in `norm_silu_reference`."""
    batch, frames, height, width, channels = x_BTHWC.shape
    reach = past_BPHWC.shape[1]
    y = x_BTHWC.new_empty(batch, reach + frames, height, width, channels)
    newest = torch.empty_like(past_BPHWC, memory_format=torch.contiguous_format)
    y[:, :reach].copy_(past_BPHWC)
    if frames < reach:
        newest[:, : reach - frames].copy_(past_BPHWC[:, frames:])
    rows = batch * frames * height * width
    parts = THIRDS if channels % THIRDS == 0 and (channels // THIRDS).bit_count() == 1 else 1
    _norm_silu_kernel[(triton.cdiv(rows, ROWS),)](
        x_BTHWC,
        gamma_C,
        y,
        newest,
        rows,
        frames * height * width,
        reach * height * width,
        channels**0.5,
        C=channels,
        PARTS=parts,
        CP=triton.next_power_of_2(channels // parts),
        R=ROWS,
        num_warps=2 if parts == THIRDS and channels <= THIRDS * 64 else 4,
    )
    return y, newest
