"""Where sparse attention pays: by what was measured, and dense where nothing was."""

import math
from dataclasses import dataclass

import torch

from reelray.proto.sparsity import SparsityPolicy
from reelray.workers.acceleration.sparsity.token_order import Grid


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One measurement of `benchmarks.sparse_attention`.

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


def break_even(tokens: int, device: str) -> float | None:
    """Density below which sparse attention pays; None where that was not measured.

    Args:
        tokens: Of the window.
        device: Its name.
    """
    found = [one for one in MEASURED if one.device in device and tokens >= one.tokens]
    return max(found, key=lambda one: one.tokens).density if found else None


def why_dense(policy: SparsityPolicy, grid: Grid, *, device: torch.device, dtype: torch.dtype) -> str:
    """Why a window is attended densely although a policy allows other things; empty where it is not.

    Args:
        policy: What is allowed.
        grid: Frames, rows and columns of tokens.
        device: Where it is attended.
        dtype: Of queries and keys.
    """
    tokens = math.prod(grid)
    if policy.forced:
        return ""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    if device.type == "cuda" and dtype not in {torch.bfloat16, torch.float16}:
        return f"the kernel takes bfloat16 and float16, and the model computes in {str(dtype).removeprefix('torch.')}"
    pays = break_even(tokens, name)
    if pays is None:
        return f"it was not measured to be faster for {tokens} tokens on {name}; forced=yes does it all the same"
    densest = max(policy.densities) if policy.mass is None else policy.mass
    if densest >= pays:
        return f"density {densest:g} is not below {pays:g}, where it is faster for {tokens} tokens on {name}"
    return ""
