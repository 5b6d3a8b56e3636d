"""How long lists of blocks become.

Shape suffixes: B batch, N heads, Q blocks of queries, G blocks of keys.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_BLOCKS = 4096
"""Scores of a row that the kernel holds in registers; the reference selects from more."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Limits:
    """How long lists become.

    Args:
        least: Blocks at least, where so many are there.
        most: Blocks at most, unless more are kept.
        mass: Share of the softmax mass to reach between the two; None where only counts matter.
        count_BN: Replaces `least`, int32 [B or 1, N or 1].
        mass_BN: Replaces `mass`, float32 [B or 1, N or 1].
        is_exact: Whether lists get no more blocks than they need at least.
        capacity: C; a list has fewer blocks in any case.
    """

    least: int
    most: int
    mass: float | None
    count_BN: Tensor | None
    mass_BN: Tensor | None
    is_exact: bool
    capacity: int


def make_limits(
    scores_BNQG: Tensor,
    count: int | Tensor | None,
    mass: float | Tensor | None,
    *,
    least: int,
    most: int | None,
    capacity: int | None,
    has_keep: bool,
) -> Limits:
    """Check what `api.select_blocks` is asked for.

    Raises:
        ValueError: A limit is out of range, or shapes or dtypes do not belong together.
    """
    blocks = scores_BNQG.shape[3]
    if count is None and mass is None:
        raise ValueError("either count or mass must say how long a list becomes")
    if least < 0 or (most is not None and most < least) or (isinstance(count, int) and count < 0):
        raise ValueError(f"lists cannot have {least} blocks at least, {most} at most and {count} by count")
    if isinstance(mass, float | int) and not 0 < mass <= 1:
        raise ValueError(f"mass is {mass}; it must be above 0 and at most 1")
    if capacity is not None and capacity < 1:
        raise ValueError(f"capacity is {capacity}; it must be at least 1")
    room = blocks if most is None else min(most, blocks)
    if isinstance(count, int):
        least = min(max(least, count), room)
    is_exact = mass is None
    if capacity is None:
        bound = least if is_exact and isinstance(count, int) else room
        capacity = (blocks if has_keep else bound) + 1
    return Limits(
        least=min(least, room),
        most=room,
        mass=float(mass) if isinstance(mass, float | int) else None,
        count_BN=_per_head(scores_BNQG, "count", count, torch.int32) if isinstance(count, Tensor) else None,
        mass_BN=_per_head(scores_BNQG, "mass", mass, torch.float32) if isinstance(mass, Tensor) else None,
        is_exact=is_exact,
        capacity=capacity,
    )


def _per_head(scores_BNQG: Tensor, name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    batch, heads = scores_BNQG.shape[:2]
    if value.dtype != dtype:
        raise ValueError(f"{name} is {value.dtype}; it must be {dtype}")
    if value.ndim > 2 or any(n not in {1, size} for n, size in zip(value.shape[::-1], (heads, batch), strict=False)):
        raise ValueError(f"{name} is {list(value.shape)}; there are {batch} rows of {heads} heads")
    return value.expand(batch, heads)
