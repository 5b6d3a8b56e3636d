"""One pass: read x once, write the normalised, activated rows behind the past."""

# Kernels take bare pointers by position.
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 32


@triton.jit
def _norm_silu_kernel(
    x_ptr, gamma_ptr, y_ptr, rows, rows_per_video, past_rows, scale, C: tl.constexpr, CP: tl.constexpr, R: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    c = tl.arange(0, CP)
    mask = (row < rows)[:, None] & (c < C)[None, :]
    x = tl.load(x_ptr + row[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
    length = tl.sqrt(tl.sum(x * x, axis=1))
    gamma = tl.load(gamma_ptr + c, mask=c < C, other=0.0).to(tl.float32)
    unit = x * (scale / tl.maximum(length, 1e-12))[:, None] * gamma[None, :]
    y = unit * tl.sigmoid(unit)
    video = row // rows_per_video
    out = row + (video + 1) * past_rows
    tl.store(y_ptr + out[:, None] * C + c[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


def norm_silu_triton(x_BTHWC: Tensor, gamma_C: Tensor, past_BPHWC: Tensor) -> Tensor:
    """Launch the kernel; arguments as in `norm_silu_reference`."""
    batch, frames, height, width, channels = x_BTHWC.shape
    reach = past_BPHWC.shape[1]
    y = torch.empty(batch, reach + frames, height, width, channels, device=x_BTHWC.device, dtype=x_BTHWC.dtype)
    y[:, :reach].copy_(past_BPHWC)
    rows = batch * frames * height * width
    _norm_silu_kernel[(triton.cdiv(rows, ROWS),)](
        x_BTHWC,
        gamma_C,
        y,
        rows,
        frames * height * width,
        reach * height * width,
        channels**0.5,
        C=channels,
        CP=triton.next_power_of_2(channels),
        R=ROWS,
        num_warps=4,
    )
    return y
