"""Where sparse attention pays: by what was measured, and dense where nothing was."""

import math
from dataclasses import dataclass

import torch

from reelray.kernels.block_attention.api import WIDTHS
from reelray.proto.sparsity import FIXED, SparsityPolicy
from reelray.workers.acceleration.sparsity.token_order import Grid


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One measurement of `benchmarks.block_attention`.

    Args:
        device: Part of the device's name, or ``cpu``.
        tokens: Of the window, at least.
        density: Share of the blocks below which sparse attention was faster than dense attention.
    """

    device: str
    tokens: int
    density: float


MEASURED: tuple[Measured, ...] = ()
"""By device and then by tokens, the larger windows first."""


def find_break_even(grid: Grid, device: torch.device) -> float | None:
    """Density below which sparse attention pays; None where that was not measured.

    Args:
        grid: Frames, rows and columns of tokens.
        device: Where it is attended.
    """
    tokens, name = math.prod(grid), _name(device)
    found = [one for one in MEASURED if one.device in name and tokens >= one.tokens]
    return max(found, key=lambda one: one.tokens).density if found else None


def why_dense(policy: SparsityPolicy, grid: Grid, *, device: torch.device, dtype: torch.dtype, width: int) -> str:
    """Why a window is attended densely although a policy allows other things; empty where it is not.

    Lists that go by mass, and fixed patterns, are used wherever anything was measured: how dense they are is known when
    they are made.

    Args:
        policy: What is allowed.
        grid: Frames, rows and columns of tokens.
        device: Where it is attended.
        dtype: Of queries and keys.
        width: Of a head.
    """
    if device.type == "cuda" and dtype not in {torch.bfloat16, torch.float16}:
        return f"the kernel takes bfloat16 and float16, and the model computes in {str(dtype).removeprefix('torch.')}"
    if device.type == "cuda" and width not in WIDTHS:
        return f"the kernel has heads of {' and '.join(map(str, WIDTHS))}, and the model's are {width} wide"
    if policy.forced:
        return ""
    pays, where = find_break_even(grid, device), f"for {math.prod(grid)} tokens on {_name(device)}"
    if pays is None:
        return f"it was not measured to be faster {where}; forced=yes does it all the same"
    if policy.mass is None and policy.method not in FIXED and min(policy.densities) >= pays:
        return f"density {min(policy.densities):g} is not below {pays:g}, where it is faster {where}"
    return ""


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
