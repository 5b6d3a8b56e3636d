"""Selection of blocks by their scores, as a Triton kernel: one bisection serves counts and softmax mass.

A program holds one row of scores in registers and looks for the highest threshold above which the list is long enough:
at least `lower` blocks, and `upper` of them or the wanted mass. Blocks at the threshold are taken from the front until
that holds, so that of equal scores the lower block wins and counts are met exactly. Thresholds are whole numbers in the
order of the scores (`select_reference.order_of`), so the search ends: it halves the distance of scores while that is
quick, then that of their numbers. Reference: `select_reference.select`; equal to it, but for a mass that is met within
rounding, which is summed up in float32 here.
Shape suffixes: B batch, N heads, Q blocks of queries, G blocks of keys, C capacity of a list.
"""

# Kernels take bare pointers by position.
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from reelray.kernels.block_routing import select_reference
from reelray.kernels.block_routing.limits import MOST_BLOCKS

BLOCKS_PER_WARP = 1024
BY_SCORE = tl.constexpr(16)
"""Steps that halve the distance of scores."""
KEPT = tl.constexpr(select_reference.KEPT)
ENDLESS = tl.constexpr(select_reference.ENDLESS)
OUT = tl.constexpr(select_reference.OUT)


@triton.jit
def _turn(number):
    """Bits of a float to their order, and back."""
    return tl.where(number < 0, number ^ 0x7FFFFFFF, number)


@triton.jit
def _is_enough(count, mass, lower, upper, wanted, HAS_MASS: tl.constexpr):
    enough = count >= lower
    if HAS_MASS:
        enough &= (count >= upper) | (mass >= wanted)
    return enough


@triton.jit
def _halfway(low, high, step):
    middle = (low & high) + ((low ^ high) >> 1)
    if step < BY_SCORE:
        scores = _turn(low).to(tl.float32, bitcast=True) * 0.5 + _turn(high).to(tl.float32, bitcast=True) * 0.5
        middle = _turn(scores.to(tl.int32, bitcast=True))
    return tl.minimum(tl.maximum(middle, low + 1), high - 1)


@triton.jit
def _rank(score, is_dropped):
    order = tl.where(score < float("inf"), _turn(score.to(tl.int32, bitcast=True)), ENDLESS)
    return tl.where(is_dropped | (score == float("-inf")), OUT, order)


@triton.jit
def _weigh(score, order):
    """Softmax weights, not divided by their sum."""
    is_endless = (order != OUT) & ((score < float("inf")) == 0)
    finite = tl.where((order != OUT) & (is_endless == 0), score, float("-inf"))
    top = tl.max(finite, 0)
    weight = tl.exp(finite - tl.where(top == float("-inf"), 0.0, top))
    return tl.where(tl.max(is_endless.to(tl.int32), 0) > 0, is_endless.to(tl.float32), weight)


@triton.jit
def _search(order, weight, lower, upper, wanted, HAS_MASS: tl.constexpr):
    """Orders between which the threshold lies, how many blocks reach them, and the mass that reaches the upper one.

    From `low` on there is enough, from `high` on is too little; between the two is one block or equal scores. Where
    kept blocks are enough, both are the same.
    """
    low = tl.min(tl.where(order != OUT, order, KEPT), 0)
    low_count = tl.sum((order != OUT).to(tl.int32), 0)
    high = tl.max(tl.where(order == KEPT, OUT, order), 0) + 1
    high_count = tl.sum((order == KEPT).to(tl.int32), 0)
    high_mass = 0.0
    if HAS_MASS:
        high_mass = tl.sum(tl.where(order == KEPT, weight, 0.0), 0)
    if _is_enough(high_count, high_mass, lower, upper, wanted, HAS_MASS):
        low, low_count = high, high_count
    step = 0
    while (high > low + 1) & (low_count > high_count + 1):
        middle = _halfway(low, high, step)
        is_above = order >= middle
        count = tl.sum(is_above.to(tl.int32), 0)
        mass = 0.0
        if HAS_MASS:
            mass = tl.sum(tl.where(is_above, weight, 0.0), 0)
        if _is_enough(count, mass, lower, upper, wanted, HAS_MASS):
            low, low_count = middle, count
        else:
            high, high_count, high_mass = middle, count, mass
        step += 1
    return low, high, low_count, high_count, high_mass


@triton.jit
def _count_equal(is_equal, weight, equal, missing):
    """How many of some blocks with equal weights hold the mass that is missing."""
    each = tl.sum(tl.where(is_equal, weight, 0.0), 0) / tl.maximum(equal, 1).to(tl.float32)
    count = tl.ceil(tl.maximum(missing, 0.0) / tl.where(each > 0, each, 1.0))
    count = tl.minimum(count, equal.to(tl.float32)).to(tl.int32)
    return tl.where((each > 0) | (missing <= 0), count, equal)


@triton.jit
def _write(into, is_chosen, listed, capacity, BLOCK: tl.constexpr):
    block = tl.arange(0, BLOCK)
    place = tl.cumsum(is_chosen.to(tl.int32), 0) - 1
    tl.store(into + place, block, mask=is_chosen & (place < listed))
    for first in range(0, capacity, BLOCK):
        behind = first + block
        tl.store(into + behind, tl.zeros((BLOCK,), tl.int32), mask=(behind >= listed) & (behind < capacity))


@triton.jit
def _select_kernel(
    scores_ptr,
    keep_ptr,
    drop_ptr,
    count_ptr,
    mass_ptr,
    index_ptr,
    listed_ptr,
    heads,
    queries,
    blocks,
    keep_batch,
    keep_head,
    keep_query,
    keep_block,
    drop_batch,
    drop_head,
    drop_query,
    drop_block,
    count_batch,
    count_head,
    mass_batch,
    mass_head,
    least,
    most,
    mass,
    capacity,
    HAS_KEEP: tl.constexpr,
    HAS_DROP: tl.constexpr,
    HAS_COUNT: tl.constexpr,
    HAS_MASS: tl.constexpr,
    HAS_MASSES: tl.constexpr,
    IS_EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    query, head, batch = row % queries, row // queries % heads, row // queries // heads
    block = tl.arange(0, BLOCK)
    inside = block < blocks
    score = tl.load(scores_ptr + row * blocks + block, mask=inside, other=float("-inf"))
    score = tl.where(score == 0, 0.0, score)
    is_dropped = inside == 0
    if HAS_DROP:
        here = drop_ptr + batch * drop_batch + head * drop_head + query * drop_query + block * drop_block
        is_dropped |= tl.load(here, mask=inside, other=0) != 0
    order = _rank(score, is_dropped)
    if HAS_KEEP:
        here = keep_ptr + batch * keep_batch + head * keep_head + query * keep_query + block * keep_block
        order = tl.where(tl.load(here, mask=inside, other=0) != 0, KEPT, order)
    lower, upper = least, most
    if HAS_COUNT:
        lower = tl.load(count_ptr + batch * count_batch + head * count_head)
        lower = tl.minimum(tl.maximum(lower, least), most)
    if IS_EXACT:
        upper = lower
    room = tl.minimum(tl.sum((order != OUT).to(tl.int32), 0), capacity - 1)
    kept = tl.sum((order == KEPT).to(tl.int32), 0)
    lower = tl.minimum(tl.maximum(lower, kept), room)
    upper = tl.minimum(tl.maximum(upper, kept), room)
    weight, wanted = score, 0.0
    if HAS_MASS:
        if HAS_MASSES:
            mass = tl.load(mass_ptr + batch * mass_batch + head * mass_head)
        weight = _weigh(score, order)
        wanted = mass * tl.sum(weight, 0)
    low, high, low_count, high_count, high_mass = _search(order, weight, lower, upper, wanted, HAS_MASS)
    is_equal = (order >= low) & (order < high)
    equal = low_count - high_count
    need = lower - high_count
    if HAS_MASS:
        count = _count_equal(is_equal, weight, equal, wanted - high_mass)
        need = tl.maximum(need, tl.minimum(upper - high_count, count))
    need = tl.minimum(tl.maximum(need, 0), equal)
    is_chosen = (order >= high) | (is_equal & (tl.cumsum(is_equal.to(tl.int32), 0) <= need))
    listed = tl.minimum(high_count + need, room)
    _write(index_ptr + row * capacity, is_chosen, listed, capacity, BLOCK)
    tl.store(listed_ptr + row, listed)


@triton_op("reelray::select_blocks", mutates_args={})
def select(
    scores_BNQG: Tensor,
    keep: Tensor | None,
    drop: Tensor | None,
    count_BN: Tensor | None,
    mass_BN: Tensor | None,
    least: int,
    most: int,
    mass: float | None,
    is_exact: bool,
    capacity: int,
) -> tuple[Tensor, Tensor]:
    """Compute what `select_reference.select` computes, of at most `MOST_BLOCKS` blocks; tensors have full shapes."""
    batch, heads, queries, blocks = scores_BNQG.shape
    if blocks > MOST_BLOCKS:
        raise ValueError(f"{blocks} blocks do not fit registers; {MOST_BLOCKS} do")
    device = scores_BNQG.device
    index_BNQC = torch.empty((batch, heads, queries, capacity), dtype=torch.int32, device=device)
    count_BNQ = torch.empty((batch, heads, queries), dtype=torch.int32, device=device)
    block = triton.next_power_of_2(blocks)
    kernel = wrap_triton(_select_kernel) if isinstance(_select_kernel, triton.JITFunction) else _select_kernel
    kernel[(batch * heads * queries,)](
        scores_BNQG.contiguous(),
        scores_BNQG if keep is None else keep.view(torch.uint8),
        scores_BNQG if drop is None else drop.view(torch.uint8),
        scores_BNQG if count_BN is None else count_BN,
        scores_BNQG if mass_BN is None else mass_BN,
        index_BNQC,
        count_BNQ,
        heads,
        queries,
        blocks,
        *(keep.stride() if keep is not None else (0, 0, 0, 0)),
        *(drop.stride() if drop is not None else (0, 0, 0, 0)),
        *(count_BN.stride() if count_BN is not None else (0, 0)),
        *(mass_BN.stride() if mass_BN is not None else (0, 0)),
        least,
        most,
        0.0 if mass is None else mass,
        capacity,
        HAS_KEEP=keep is not None,
        HAS_DROP=drop is not None,
        HAS_COUNT=count_BN is not None,
        HAS_MASS=mass is not None or mass_BN is not None,
        HAS_MASSES=mass_BN is not None,
        IS_EXACT=is_exact,
        BLOCK=block,
        num_warps=max(1, min(8, block // BLOCKS_PER_WARP)),
    )
    return index_BNQC, count_BNQ
