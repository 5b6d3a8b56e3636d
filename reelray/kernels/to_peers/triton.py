"""The exchange of a window between ranks as Triton kernels that write into other GPUs' memory over NVLink.

`_put_heads_kernel`: one program sends one token of one part, to each rank the heads that it computes.
`_put_tokens_kernel`: one program sends one token back to the rank that holds it. `_meet_kernel`: one warp tells the
others its turn and waits for theirs. Reference: `reference.py`; exact. Shape suffixes: B batch, S tokens of this rank,
K all tokens, N heads, D head width.
"""

# Kernels take bare pointers by position.
# ruff: noqa: ANN001, ANN202, PLR0917
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from reelray.kernels.to_peers.spread import Spread, on_device

MOST_COLUMNS = 2048
WARP = 32


# One program serves all windows: only strides are told to divide by 16, and every count is in whole heads.
@triton.jit(do_not_specialize=["tokens", "batch", "held", "first", "places", "all_tokens", "index"])
def _put_heads_kernel(
    one_ptr,
    two_ptr,
    three_ptr,
    four_ptr,
    one_token,
    two_token,
    three_token,
    four_token,
    rooms_ptr,
    first_heads_ptr,
    tokens,
    batch,
    held,
    first,
    places,
    all_tokens,
    index,
    RANKS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    number, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    from_ptr, stride = one_ptr, one_token
    if part == 1:
        from_ptr, stride = two_ptr, two_token
    if part == 2:
        from_ptr, stride = three_ptr, three_token
    if part == 3:
        from_ptr, stride = four_ptr, four_token
    row, token = number // tokens, number % tokens
    place = token // held * places + first + token % held
    for step in tl.static_range(RANKS):
        # Ranks begin with different neighbours, so that none is written to by all at once.
        rank = (index + 1 + step) % RANKS
        begin = tl.load(first_heads_ptr + rank) * WIDTH
        count = tl.load(first_heads_ptr + rank + 1) * WIDTH - begin
        room = tl.multiple_of(tl.load(rooms_ptr + rank).to(from_ptr.dtype), 16)
        there = room + ((part * batch + row) * all_tokens + place) * count
        for block in range(0, count, BLOCK):
            column = block + tl.arange(0, BLOCK)
            inside = column < count
            tl.store(there + column, tl.load(from_ptr + number * stride + begin + column, mask=inside), mask=inside)


@triton.jit(do_not_specialize=["tokens", "frames", "places", "heads", "begin", "all_heads"])
def _put_tokens_kernel(
    from_ptr,
    rooms_ptr,
    first_places_ptr,
    tokens,
    frames,
    places,
    row_stride,
    heads,
    begin,
    all_heads,
    RANKS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    number = tl.program_id(0).to(tl.int64)
    row, token = number // tokens, number % tokens
    frame, place = token // places, token % places
    rank = 0
    for other in tl.static_range(1, RANKS):
        rank += (place >= tl.load(first_places_ptr + other)).to(tl.int32)
    first = tl.load(first_places_ptr + rank)
    held = tl.load(first_places_ptr + rank + 1) - first
    room = tl.multiple_of(tl.load(rooms_ptr + rank).to(from_ptr.dtype), 16)
    there = room + (((row * frames + frame) * held + place - first) * all_heads + begin) * WIDTH
    for block in range(0, heads * WIDTH, BLOCK):
        column = block + tl.arange(0, BLOCK)
        inside = column < heads * WIDTH
        tl.store(there + column, tl.load(from_ptr + number * row_stride + column, mask=inside), mask=inside)


@triton.jit(do_not_specialize=["index"])
def _meet_kernel(pads_ptr, turn_ptr, stop_ptr, index, RANKS: tl.constexpr, LANES: tl.constexpr):
    rank = tl.arange(0, LANES)
    there = rank < RANKS
    turn = tl.load(turn_ptr) + 1
    pads = tl.load(pads_ptr + rank, mask=there, other=0).to(tl.pointer_type(tl.int32))
    # Released and acquired across the system: what was put before is seen by who has met this rank.
    tl.atomic_xchg(pads + index, turn + tl.zeros((LANES,), tl.int32), mask=there, sem="release", scope="sys")
    mine = tl.load(pads_ptr + index).to(tl.pointer_type(tl.int32))
    waits = 1
    while waits != 0:
        seen = tl.atomic_add(mine + rank, 0, mask=there, sem="acquire", scope="sys")
        late = tl.sum((tl.where(there, seen - turn, 0) < 0).to(tl.int32), 0)
        stopped = tl.load(stop_ptr, volatile=True)
        waits = tl.where(stopped != 0, 0, late)
    tl.store(turn_ptr, turn)


def put_heads(parts_BSND: Sequence[Tensor], pointers: Tensor, spread: Spread) -> None:
    """Do what `reference.put_heads` does; see `api.put_heads`."""
    batch, tokens, _, width = parts_BSND[0].shape
    parts = [_as_rows(part_BSND) for part_BSND in parts_BSND]
    given = [*parts, *[parts[0]] * (4 - len(parts))]
    _put_heads_kernel[(batch * tokens, len(parts))](
        *given,
        *(part.stride(1) for part in given),
        pointers,
        on_device(spread.first_heads, pointers.device),
        tokens,
        batch,
        spread.places[spread.index],
        spread.first_places[spread.index],
        spread.all_places,
        spread.frames * spread.all_places,
        spread.index,
        RANKS=spread.ranks,
        WIDTH=width,
        **_blocks(max(map(len, spread.heads)) * width),
    )


def put_tokens(mixed_BKND: Tensor, pointers: Tensor, spread: Spread) -> None:
    """Do what `reference.put_tokens` does; see `api.put_tokens`."""
    mixed = _as_rows(mixed_BKND)
    batch, tokens, heads, width = mixed.shape
    _put_tokens_kernel[(batch * tokens,)](
        mixed,
        pointers,
        on_device(spread.first_places, pointers.device),
        tokens,
        spread.frames,
        spread.all_places,
        mixed.stride(1),
        heads,
        spread.mine.start,
        spread.all_heads,
        RANKS=spread.ranks,
        WIDTH=width,
        **_blocks(heads * width),
    )


def meet(pads: Tensor, turn: Tensor, stop: Tensor, index: int) -> None:
    """Wait on the device; see `api.meet`."""
    _meet_kernel[(1,)](pads, turn, stop, index, RANKS=pads.numel(), LANES=WARP, num_warps=1)


def _as_rows(part_BSND: Tensor) -> Tensor:
    """The same with the channels of a token side by side, and tokens of all rows at one distance."""
    _, tokens, heads, width = part_BSND.shape
    rows = part_BSND.stride(0) == tokens * part_BSND.stride(1) or part_BSND.shape[0] == 1
    side_by_side = part_BSND.stride(3) == 1 and (heads == 1 or part_BSND.stride(2) == width)
    return part_BSND if rows and side_by_side else part_BSND.contiguous()


def _blocks(columns: int) -> dict[str, int]:
    """Columns at once and warps: sixteen bytes of half precision a thread."""
    block = min(MOST_COLUMNS, triton.next_power_of_2(columns))
    return {"BLOCK": block, "num_warps": min(8, max(1, block // (8 * WARP)))}
