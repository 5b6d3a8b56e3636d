"""Gated residual, LayerNorm, gain and shift in one pass over a token, as a Triton kernel.

y = x + u * gate, rounded to the dtype of x; n = (y - mean(y)) / sqrt(var(y) + eps) * gain + shift, in float32.
One program holds one token. Reference: reference.py; tolerance 1e-5 in float32, one rounding step in half precision.
Shape suffixes: B batch, S tokens, G groups of tokens, C channels.
"""

# Kernels take bare pointers by position.
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from reelray.kernels.modulate.reference import Modulation


@triton.jit
def _add_norm_kernel(
    x_ptr,
    update_ptr,
    gate_ptr,
    gain_ptr,
    shift_ptr,
    sum_ptr,
    out_ptr,
    tokens,
    group_tokens,
    channels,
    gate_batch,
    gate_group,
    gain_batch,
    gain_group,
    shift_batch,
    shift_group,
    eps,
    HAS_UPDATE: tl.constexpr,
    HAS_GATE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    batch = row // tokens
    group = (row % tokens) // group_tokens
    column = tl.arange(0, BLOCK)
    inside = column < channels
    here = row * channels + column
    x = tl.load(x_ptr + here, mask=inside, other=0.0).to(tl.float32)
    if HAS_UPDATE:
        update = tl.load(update_ptr + here, mask=inside, other=0.0).to(tl.float32)
        if HAS_GATE:
            update *= tl.load(gate_ptr + batch * gate_batch + group * gate_group + column, mask=inside, other=0.0)
        rounded = (x + update).to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + here, rounded, mask=inside)
        x = rounded.to(tl.float32)
    centred = tl.where(inside, x - tl.sum(x, 0) / channels, 0.0)
    normed = centred / tl.sqrt(tl.sum(centred * centred, 0) / channels + eps)
    gain = tl.load(gain_ptr + batch * gain_batch + group * gain_group + column, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + batch * shift_batch + group * shift_group + column, mask=inside, other=0.0)
    shift = shift.to(tl.float32)
    tl.store(out_ptr + here, (normed * gain + shift).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _add_gated_kernel(
    x_ptr, update_ptr, gate_ptr, out_ptr, tokens, group_tokens, channels, gate_batch, gate_group, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    batch = row // tokens
    group = (row % tokens) // group_tokens
    column = tl.arange(0, BLOCK)
    inside = column < channels
    here = row * channels + column
    x = tl.load(x_ptr + here, mask=inside, other=0.0).to(tl.float32)
    update = tl.load(update_ptr + here, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + batch * gate_batch + group * gate_group + column, mask=inside, other=0.0)
    tl.store(out_ptr + here, (x + update * gate).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _modulation_kernel(table_ptr, time_ptr, out_ptr, channels, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    part = row % 6
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < channels
    table = tl.load(table_ptr + part * channels + column, mask=inside, other=0.0).to(tl.float32)
    time = tl.load(time_ptr + row * channels + column, mask=inside, other=0.0).to(tl.float32)
    value = table + time
    tl.store(out_ptr + row * channels + column, tl.where(part % 3 == 1, 1 + value, value), mask=inside)


def _launch(
    x_BSC: Tensor,
    update_BSC: Tensor | None,
    gate_BGC: Tensor | None,
    gain_BGC: Tensor,
    shift_BGC: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    x_BSC = x_BSC.contiguous()
    batch, tokens, channels = x_BSC.shape
    out_BSC = torch.empty_like(x_BSC)
    sum_BSC = out_BSC if update_BSC is None else torch.empty_like(x_BSC)
    parts = [part for part in (gain_BGC, shift_BGC, gate_BGC) if part is not None]
    groups = max(part.shape[1] for part in parts)
    if any(part.shape[1] not in {1, groups} or part.stride(2) != 1 for part in parts):
        raise ValueError("gain, shift and gate must have the same groups, or one, and contiguous channels")
    _wrapped(_add_norm_kernel)[(batch * tokens,)](
        x_BSC,
        x_BSC if update_BSC is None else update_BSC.contiguous(),
        gain_BGC if gate_BGC is None else gate_BGC,
        gain_BGC,
        shift_BGC,
        sum_BSC,
        out_BSC,
        tokens,
        tokens // groups,
        channels,
        *_strides(gain_BGC if gate_BGC is None else gate_BGC),
        *_strides(gain_BGC),
        *_strides(shift_BGC),
        eps,
        HAS_UPDATE=update_BSC is not None,
        HAS_GATE=gate_BGC is not None,
        BLOCK=triton.next_power_of_2(channels),
        num_warps=8 if channels > 2048 else 4,
    )
    return sum_BSC, out_BSC


def _wrapped(kernel: Any) -> Any:
    """The kernel as `torch.compile` can trace it; the interpreter's is run as it is."""
    return wrap_triton(kernel) if isinstance(kernel, triton.JITFunction) else kernel


def _strides(part_BGC: Tensor) -> tuple[int, int]:
    return (
        part_BGC.stride(0) if part_BGC.shape[0] > 1 else 0,
        part_BGC.stride(1) if part_BGC.shape[1] > 1 else 0,
    )


@triton_op("reelray::modulation_rows", mutates_args={})
def modulation_rows(table_16C: Tensor, time_BG6C: Tensor) -> Tensor:
    """Compute what `reference.modulation_of` computes, as one tensor [B, G, 6, C]."""
    table_16C, time_BG6C = table_16C.contiguous(), time_BG6C.contiguous()
    batch, groups, parts, channels = time_BG6C.shape
    out_BG6C = torch.empty(time_BG6C.shape, dtype=torch.float32, device=time_BG6C.device)
    block = min(1024, triton.next_power_of_2(channels))
    _wrapped(_modulation_kernel)[(batch * groups * parts, triton.cdiv(channels, block))](
        table_16C, time_BG6C, out_BG6C, channels, BLOCK=block
    )
    return out_BG6C


def modulation_of(table_16C: Tensor, time_BG6C: Tensor) -> Modulation:
    """Compute what `reference.modulation_of` computes."""
    rows: Modulation = modulation_rows(table_16C, time_BG6C).unbind(2)
    return rows


@triton_op("reelray::norm_modulate", mutates_args={})
def norm_modulate(x_BSC: Tensor, gain_BGC: Tensor, shift_BGC: Tensor, eps: float) -> Tensor:
    """Compute what `reference.norm_modulate` computes."""
    return _launch(x_BSC, None, None, gain_BGC, shift_BGC, eps)[1]


@triton_op("reelray::add_norm_modulate", mutates_args={})
def add_norm_modulate(
    x_BSC: Tensor, update_BSC: Tensor, gate_BGC: Tensor | None, gain_BGC: Tensor, shift_BGC: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Compute what `reference.add_norm_modulate` computes."""
    return _launch(x_BSC, update_BSC, gate_BGC, gain_BGC, shift_BGC, eps)


@triton_op("reelray::add_gated", mutates_args={})
def add_gated(x_BSC: Tensor, update_BSC: Tensor, gate_BGC: Tensor) -> Tensor:
    """Compute what `reference.add_gated` computes."""
    x_BSC, update_BSC = x_BSC.contiguous(), update_BSC.contiguous()
    batch, tokens, channels = x_BSC.shape
    out_BSC = torch.empty_like(x_BSC)
    _wrapped(_add_gated_kernel)[(batch * tokens,)](
        x_BSC,
        update_BSC,
        gate_BGC,
        out_BSC,
        tokens,
        tokens // gate_BGC.shape[1],
        channels,
        *_strides(gate_BGC),
        BLOCK=triton.next_power_of_2(channels),
        num_warps=8 if channels > 2048 else 4,
    )
    return out_BSC
