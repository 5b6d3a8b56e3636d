"""Flash attention over lists of key blocks, as a Triton kernel.

softmax(q k^T / sqrt(D)) v over the listed keys with products in the dtype of q and everything between in float32: a
running maximum, sum and accumulator per query, which may begin with a seed. One program holds one tile of queries of
one head and goes through its list, or through one part of it. Reference: `reference.attend_blocks_reference`; tolerance
one rounding step of the weights and of the result. `launch.py` starts it.
"""

# Kernels take bare pointers by position.
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import math

import triton
import triton.language as tl

LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2))
RUNTIME = ("tokens", "keys", "query_blocks", "blocks", "capacity", "splits")
"""Sizes for which the kernel is not compiled anew."""


@triton.jit
def _fold_in(q, k, v, acc, most, total, scale, rows, there, MASKED: tl.constexpr, SETTLES: tl.constexpr):
    """One tile of keys, of which `rows` are there, into the running result; logs are to the base of 2."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee")
    if MASKED:  # noqa: SIM102  (the one is known when the kernel is compiled, the other is not)
        if rows < scores.shape[1]:
            scores = tl.where(there[None, :], scores, float("-inf"))
    most_now = tl.maximum(most, tl.max(scores, 1) * scale)
    shift = most_now
    if MASKED:
        shift = tl.where(most_now == float("-inf"), 0.0, most_now)
    weights = tl.exp2(scores * scale - shift[:, None])
    fade = tl.exp2(most - shift)
    total = total * fade + tl.sum(weights, 1)
    acc = tl.dot(weights.to(v.dtype), v, acc * fade[:, None], input_precision="ieee")
    if SETTLES:
        acc = tl.inline_asm_elementwise("", "=r,0", [acc], dtype=tl.float32, is_pure=True, pack=1)
    return acc, most_now, total


@triton.jit
def _pair(row, one, two, block_stride, token_stride, ROWS: tl.constexpr):
    """Where the rows of a tile of two blocks begin, less what they have as rows of one tile."""
    first = one.to(tl.int64) * block_stride
    second = two.to(tl.int64) * block_stride - ROWS * token_stride
    return tl.where(row < ROWS, first, second)[:, None]


@triton.jit
def _clamp(named, limit):
    """An index that may be read, whatever a list says."""
    return tl.minimum(tl.maximum(named, 0), limit - 1)


@triton.jit
def _begin(
    seed_ptr, seed_lse_ptr, seed_token, is_there, HAS_SEED: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr
):
    """What the result begins with: the seed, or nothing."""
    acc = tl.zeros((TILE, WIDTH), tl.float32)
    most = tl.full((TILE,), float("-inf"), tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    seed_lse = most
    if HAS_SEED:
        seed_lse = tl.load(seed_lse_ptr, mask=is_there, other=float("-inf"))
        is_seeded = seed_lse != float("-inf")
        seed = tl.load(seed_ptr + seed_token + tl.arange(0, WIDTH)[None, :], mask=is_seeded[:, None], other=0.0)
        acc = seed.to(tl.float32)
        most = seed_lse * LOG2_E
        total = tl.where(is_seeded, 1.0, 0.0)
    return acc, most, total, seed_lse


@triton.jit
def _go_through(
    q,
    k_ptr,
    v_ptr,
    k_desc,
    v_desc,
    list_ptr,
    length_ptr,
    acc,
    most,
    total,
    wrong,
    scale,
    keys,
    listed,
    whole,
    limit,
    row,
    head,
    k_block,
    k_token,
    v_block,
    v_token,
    HAS_LENGTHS: tl.constexpr,
    HAS_TAIL: tl.constexpr,
    MASKED: tl.constexpr,
    PAGED: tl.constexpr,
    SHARED: tl.constexpr,
    ALIKE: tl.constexpr,
    WIDTH: tl.constexpr,
    KEY_ROWS: tl.constexpr,
    KEY_TILE: tl.constexpr,
    STAGES: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    SPECIALIZES: tl.constexpr,
    SETTLES: tl.constexpr,
):
    """All blocks of a list, each in one tile or in several; an index is read one step before it is used.

    A length is read one step before as well, by an index that is read two steps before: Triton 3.6 does not compile a
    loop in which one load gives the address of another and both are for the next step.
    """
    SUBS: tl.constexpr = (KEY_ROWS + KEY_TILE - 1) // KEY_TILE
    key, column = tl.arange(0, KEY_TILE), tl.arange(0, WIDTH)
    k_offset = key[:, None] * k_token + column[None, :]
    v_offset = key[:, None] * v_token + column[None, :]
    if ALIKE:
        v_block, v_token, v_offset = k_block, k_token, k_offset
    ahead = tl.load(list_ptr)
    if HAS_LENGTHS:
        rows_ahead = tl.load(length_ptr + _clamp(ahead, limit), mask=limit > 0, other=0)
        beyond = tl.load(list_ptr + tl.minimum(1, whole * SUBS) // SUBS)
    for step in tl.range(0, whole * SUBS, num_stages=STAGES, warp_specialize=SPECIALIZES):
        wrong = wrong | (ahead < 0) | (ahead >= limit)
        block = _clamp(ahead, limit)
        sub = (step % SUBS) * KEY_TILE
        ahead = tl.load(list_ptr + (step + 1) // SUBS)
        k_here = k_ptr + (block.to(tl.int64) * k_block + sub * k_token)
        v_here = v_ptr + (block.to(tl.int64) * v_block + sub * v_token)
        rows = KEY_ROWS
        there = key < KEY_TILE
        if MASKED:
            if HAS_LENGTHS:
                rows = rows_ahead
                wrong = wrong | (rows < 0) | (rows > KEY_ROWS)
                rows_ahead = tl.load(length_ptr + _clamp(beyond, limit))
                beyond = tl.load(list_ptr + tl.minimum(step + 2, whole * SUBS) // SUBS)
            if HAS_TAIL:
                rows = tl.minimum(rows, keys - block * KEY_ROWS)
            rows -= sub
            there = key < rows
            k = tl.load(k_here + k_offset, mask=there[:, None], other=0.0)
            v = tl.load(v_here + v_offset, mask=there[:, None], other=0.0)
        elif DESCRIPTORS:
            outer = block if PAGED else (0 if SHARED else row.to(tl.int32))
            inner = sub if PAGED else block * KEY_ROWS + sub
            k = k_desc.load([outer, inner, head.to(tl.int32), 0]).reshape(KEY_TILE, WIDTH)
            v = v_desc.load([outer, inner, head.to(tl.int32), 0]).reshape(KEY_TILE, WIDTH)
        else:
            k = tl.load(k_here + k_offset)
            v = tl.load(v_here + v_offset)
        acc, most, total = _fold_in(q, k, v, acc, most, total, scale, rows, there, MASKED, SETTLES)
    if HAS_TAIL and not MASKED:
        k_here = k_ptr + tl.cast(limit, tl.int64) * k_block + k_offset
        v_here = v_ptr + tl.cast(limit, tl.int64) * v_block + v_offset
        for step in tl.range(0, (listed - whole) * SUBS, num_stages=1):
            sub = step * KEY_TILE
            rows = keys - limit * KEY_ROWS - sub
            there = key < rows
            k = tl.load(k_here + sub * k_token, mask=there[:, None], other=0.0)
            v = tl.load(v_here + sub * v_token, mask=there[:, None], other=0.0)
            acc, most, total = _fold_in(q, k, v, acc, most, total, scale, rows, there, True, SETTLES)
    return acc, most, total, wrong


@triton.jit
def _go_through_pairs(
    q,
    k_ptr,
    v_ptr,
    list_ptr,
    acc,
    most,
    total,
    wrong,
    scale,
    keys,
    blocks,
    listed,
    whole,
    limit,
    places,
    k_block,
    k_token,
    v_block,
    v_token,
    ALIKE: tl.constexpr,
    WIDTH: tl.constexpr,
    KEY_ROWS: tl.constexpr,
    STAGES: tl.constexpr,
    SETTLES: tl.constexpr,
):
    """All blocks of a list, two in one tile; what is left, one or two blocks, is read with masks."""
    key, column = tl.arange(0, 2 * KEY_ROWS), tl.arange(0, WIDTH)
    k_offset = key[:, None] * k_token + column[None, :]
    v_offset = key[:, None] * v_token + column[None, :]
    if ALIKE:
        v_block, v_token, v_offset = k_block, k_token, k_offset
    one, two = tl.load(list_ptr), tl.load(list_ptr + tl.minimum(1, places - 1))
    for step in tl.range(0, whole // 2, num_stages=STAGES):
        wrong = wrong | (one < 0) | (one >= limit) | (two < 0) | (two >= limit)
        first, second = _clamp(one, limit), _clamp(two, limit)
        one = tl.load(list_ptr + tl.minimum(2 * step + 2, places - 1))
        two = tl.load(list_ptr + tl.minimum(2 * step + 3, places - 1))
        k = tl.load(k_ptr + _pair(key, first, second, k_block, k_token, KEY_ROWS) + k_offset)
        v = tl.load(v_ptr + _pair(key, first, second, v_block, v_token, KEY_ROWS) + v_offset)
        acc, most, total = _fold_in(q, k, v, acc, most, total, scale, 0, key < 0, False, SETTLES)
    rest = listed - whole // 2 * 2
    for _ in tl.range(0, tl.where(blocks > 0, tl.minimum(rest, 1), 0), num_stages=1):
        wrong = wrong | (one < 0) | (one >= blocks) | ((rest > 1) & ((two < 0) | (two >= blocks)))
        first, second = _clamp(one, blocks), _clamp(two, blocks)
        first_rows = tl.minimum(KEY_ROWS, keys - first * KEY_ROWS)
        second_rows = tl.where(rest > 1, tl.minimum(KEY_ROWS, keys - second * KEY_ROWS), 0)
        there = tl.where(key < KEY_ROWS, key < first_rows, key - KEY_ROWS < second_rows)
        k_here = k_ptr + _pair(key, first, second, k_block, k_token, KEY_ROWS) + k_offset
        v_here = v_ptr + _pair(key, first, second, v_block, v_token, KEY_ROWS) + v_offset
        k = tl.load(k_here, mask=there[:, None], other=0.0)
        v = tl.load(v_here, mask=there[:, None], other=0.0)
        acc, most, total = _fold_in(q, k, v, acc, most, total, scale, 0, there, True, SETTLES)
    return acc, most, total, wrong


@triton.jit(do_not_specialize=RUNTIME)
def block_attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    k_desc,
    v_desc,
    index_ptr,
    count_ptr,
    length_ptr,
    order_ptr,
    seed_ptr,
    seed_lse_ptr,
    out_ptr,
    lse_ptr,
    tokens,
    keys,
    query_blocks,
    blocks,
    capacity,
    heads,
    splits,
    scale,
    q_row,
    q_token,
    q_head,
    k_row,
    k_block,
    k_token,
    k_head,
    v_row,
    v_block,
    v_token,
    v_head,
    index_row,
    index_head,
    index_query,
    count_row,
    count_head,
    count_query,
    order_row,
    order_head,
    order_query,
    seed_row,
    seed_token,
    seed_head,
    seed_lse_row,
    seed_lse_token,
    seed_lse_head,
    HAS_LENGTHS: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    HAS_SEED: tl.constexpr,
    HAS_TAIL: tl.constexpr,
    MASKED: tl.constexpr,
    PAGED: tl.constexpr,
    SHARED: tl.constexpr,
    ALIKE: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERY_ROWS: tl.constexpr,
    KEY_ROWS: tl.constexpr,
    QUERY_TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
    ENTRIES: tl.constexpr,
    STAGES: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    SPECIALIZES: tl.constexpr,
    SETTLES: tl.constexpr,
) -> None:
    """One tile of queries of one head over its list, or over one part of it."""
    PARTS: tl.constexpr = (QUERY_ROWS + QUERY_TILE - 1) // QUERY_TILE
    split = tl.program_id(1)
    row, head = (tl.program_id(2) // heads).to(tl.int64), (tl.program_id(2) % heads).to(tl.int64)
    query_block = tl.program_id(0) // PARTS
    within = (tl.program_id(0) % PARTS) * QUERY_TILE + tl.arange(0, QUERY_TILE)
    inside = within < QUERY_ROWS
    if HAS_ORDER:
        named = tl.load(order_ptr + row * order_row + head * order_head + query_block * order_query)
        query_block = _clamp(named, query_blocks)
        inside = inside & (named == query_block)
    token = query_block * QUERY_ROWS + within
    inside = inside & (token < tokens)
    token = token.to(tl.int64)
    column = tl.arange(0, WIDTH)
    q_here = q_ptr + row * q_row + head * q_head + token[:, None] * q_token + column[None, :]
    q = tl.load(q_here, mask=inside[:, None], other=0.0)

    count = tl.load(count_ptr + row * count_row + head * count_head + query_block * count_query)
    wrong = (count < 0) | (count >= capacity)
    count = tl.where(wrong, 0, count)
    share = (count + splits - 1) // splits
    begin = tl.minimum(count, split * share)
    listed = tl.minimum(count - begin, share)
    list_ptr = index_ptr + row * index_row + head * index_head + query_block.to(tl.int64) * index_query + begin

    # Whole blocks are read without masks; the end of the sequence, the last of an ascending list, is read apart.
    whole, limit = listed, blocks
    if HAS_TAIL and not MASKED:
        limit = blocks - 1
        last = tl.load(list_ptr + tl.maximum(listed, 1) - 1)
        whole = tl.where((listed > 0) & (last == limit), listed - 1, listed)
    wrong = wrong | ((limit < 1) & (whole > 0))
    listed -= tl.where(limit < 1, whole, 0)
    whole = tl.where(limit < 1, 0, whole)

    token_seed = row * seed_row + token[:, None] * seed_token + head * seed_head
    seed_lse_here = seed_lse_ptr + row * seed_lse_row + token * seed_lse_token + head * seed_lse_head
    acc, most, total, seed_lse = _begin(
        seed_ptr, seed_lse_here, token_seed, inside & (split == 0), HAS_SEED, QUERY_TILE, WIDTH
    )
    k_ptr += row * k_row + head * k_head
    v_ptr += row * v_row + head * v_head
    if ENTRIES == 2:
        acc, most, total, wrong = _go_through_pairs(
            q, k_ptr, v_ptr, list_ptr, acc, most, total, wrong, scale, keys, blocks, listed, whole, limit,
            capacity - begin, k_block, k_token, v_block, v_token, ALIKE, WIDTH, KEY_ROWS, STAGES, SETTLES,
        )  # fmt: skip
    else:
        acc, most, total, wrong = _go_through(
            q, k_ptr, v_ptr, k_desc, v_desc, list_ptr, length_ptr, acc, most, total, wrong, scale, keys, listed, whole,
            limit, row, head, k_block, k_token, v_block, v_token, HAS_LENGTHS, HAS_TAIL, MASKED, PAGED, SHARED, ALIKE,
            WIDTH, KEY_ROWS, KEY_TILE, STAGES, DESCRIPTORS, SPECIALIZES, SETTLES,
        )  # fmt: skip

    total = tl.where(total == 0.0, 1.0, total)
    lse = (most + tl.log2(total)) * LN_2
    if HAS_SEED:
        lse = tl.where(listed == 0, seed_lse, lse)
    poison = tl.where(wrong, float("nan"), 0.0)
    mixed = acc / total[:, None] + poison
    place = ((split * (tl.num_programs(2) // heads) + row) * tokens + token) * heads + head
    tl.store(out_ptr + place[:, None] * WIDTH + column[None, :], mixed.to(out_ptr.dtype.element_ty), inside[:, None])
    tl.store(lse_ptr + place, lse + poison, mask=inside)
