"""The kernel's launch: as the table says, or as given.

Shape suffixes: B batch, S query tokens, K key tokens, N heads, D head width, Q blocks of queries, C capacity of a list,
G blocks of keys.
"""

import math

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from reelray.kernels.attention.merge import merge_all
from reelray.kernels.block_attention.tiles import Tile, choose_splits, choose_tile, count_processors, fit, joins
from reelray.kernels.block_attention.triton import block_attention_kernel


# An opaque op: torch's `triton_op` passes on neither tensor descriptors nor a bound on registers.
@torch.library.custom_op("reelray::attend_block_lists", mutates_args=())
def attend_listed(  # noqa: PLR0917  (an op takes its tensors by position)
    q_BSND: Tensor,
    k_BKND: Tensor,
    v_BKND: Tensor,
    index_BNQC: Tensor,
    count_BNQ: Tensor,
    length_G: Tensor | None,
    order_BNQ: Tensor | None,
    seed_BSND: Tensor | None,
    seed_BSN: Tensor | None,
    *,
    query_rows: int,
    key_rows: int,
    paged: bool,
    longest: int,
    splits: int,
) -> tuple[Tensor, Tensor]:
    """Compute what `reference.attend_blocks_reference` computes, launched as the table says; see `api`."""
    tile = choose_tile(q_BSND.shape[3], query_rows, key_rows, longest)
    return launch(
        (q_BSND, k_BKND, v_BKND),
        (index_BNQC, count_BNQ, length_G, order_BNQ),
        None if seed_BSND is None or seed_BSN is None else (seed_BSND, seed_BSN),
        tile,
        rows=(query_rows, key_rows),
        paged=paged,
        splits=splits or _choose_splits(q_BSND, tile, query_rows, key_rows, longest),
    )


@attend_listed.register_fake
def _shape_of_result(q_BSND: Tensor, *_others: object, **_options: object) -> tuple[Tensor, Tensor]:
    lse_BSN = torch.empty(q_BSND.shape[:3], dtype=torch.float32, device=q_BSND.device)
    return torch.empty_like(q_BSND, memory_format=torch.contiguous_format), lse_BSN


def launch(
    qkv: tuple[Tensor, Tensor, Tensor],
    lists: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    seed: tuple[Tensor, Tensor] | None,
    tile: Tile,
    *,
    rows: tuple[int, int],
    paged: bool,
    splits: int,
) -> tuple[Tensor, Tensor]:
    """Attend with a given launch.

    Args:
        qkv: Queries [B, S, N, D], keys and values [B, K, N, D], or [pages, rows, N, D] if `paged`.
        lists: Indices, counts, lengths and order, as `BlockLists` has them.
        seed: Mixed values and logs over other keys.
        tile: Launch shape; what blocks of this size do not allow is left out.
        rows: Of a block of queries and of a block of keys.
        paged: Whether keys lie on pages.
        splits: Parts of each list.
    """
    q_BSND, k_BKND, v_BKND = qkv
    index_BNQC, count_BNQ, length_G, order_BNQ = lists
    batch, tokens, heads, width = q_BSND.shape
    query_rows, key_rows = rows
    query_blocks = count_BNQ.shape[2]
    keys = k_BKND.shape[0] * key_rows if paged else k_BKND.shape[1]
    tile = fit(tile, query_rows, key_rows, has_lengths=length_G is not None)
    pairs = joins(tile, key_rows)
    masked = length_G is not None or (not pairs and key_rows % tile.keys != 0)
    shape = (batch, tokens, heads, width) if splits == 1 else (splits, batch, tokens, heads, width)
    out = torch.empty(shape, dtype=q_BSND.dtype if splits == 1 else torch.float32, device=q_BSND.device)
    lse = torch.empty(shape[:-1], dtype=torch.float32, device=q_BSND.device)
    described = (_describe(k_BKND, tile), _describe(v_BKND, tile)) if tile.descriptors else (k_BKND, v_BKND)
    programs = query_blocks * triton.cdiv(query_rows, tile.queries)
    block_attention_kernel[(programs, splits, batch * heads)](
        q_BSND,
        k_BKND,
        v_BKND,
        *described,
        index_BNQC,
        count_BNQ,
        index_BNQC if length_G is None else length_G,
        index_BNQC if order_BNQ is None else order_BNQ,
        *((out, lse) if seed is None else seed),
        out,
        lse,
        tokens,
        keys,
        query_blocks,
        triton.cdiv(keys, key_rows),
        index_BNQC.shape[3],
        heads,
        splits,
        width**-0.5 * math.log2(math.e),
        *q_BSND.stride()[:3],
        *_strides(k_BKND, key_rows, paged=paged),
        *_strides(v_BKND, key_rows, paged=paged),
        *_shared_strides(index_BNQC),
        *_shared_strides(count_BNQ),
        *((0, 0, 0) if order_BNQ is None else _shared_strides(order_BNQ)),
        *((0,) * 6 if seed is None else (*seed[0].stride()[:3], *seed[1].stride())),
        HAS_LENGTHS=length_G is not None,
        HAS_ORDER=order_BNQ is not None,
        HAS_SEED=seed is not None,
        HAS_TAIL=keys % key_rows != 0,
        MASKED=masked,
        PAGED=paged,
        SHARED=k_BKND.shape[0] == 1,
        ALIKE=k_BKND.stride() == v_BKND.stride(),
        WIDTH=width,
        QUERY_ROWS=query_rows,
        KEY_ROWS=key_rows,
        QUERY_TILE=tile.queries,
        KEY_TILE=tile.keys,
        ENTRIES=2 if pairs else 1,
        STAGES=tile.stages,
        DESCRIPTORS=tile.descriptors,
        SPECIALIZES=tile.specializes,
        SETTLES=tile.settles,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **({} if tile.registers is None else {"maxnreg": tile.registers}),
    )
    return (out, lse) if splits == 1 else merge_all(out, lse, q_BSND.dtype)


def _choose_splits(q_BSND: Tensor, tile: Tile, query_rows: int, key_rows: int, longest: int) -> int:
    batch, tokens, heads, _ = q_BSND.shape
    tiles = batch * heads * -(-tokens // query_rows) * -(-query_rows // tile.queries)
    return choose_splits(tiles, -(-longest * key_rows // tile.keys), count_processors(q_BSND.device))


def _describe(part_BKND: Tensor, tile: Tile) -> TensorDescriptor:
    block = [1, tile.keys, 1, part_BKND.shape[3]]
    return TensorDescriptor(part_BKND, list(part_BKND.shape), list(part_BKND.stride()), block)


def _strides(part_BKND: Tensor, key_rows: int, *, paged: bool) -> tuple[int, int, int, int]:
    """Of a row of the batch, a block, a token and a head."""
    outer, token, head, _ = part_BKND.stride()
    if paged:
        return 0, outer, token, head
    return (0 if part_BKND.shape[0] == 1 else outer), key_rows * token, token, head


def _shared_strides(part: Tensor) -> tuple[int, int, int]:
    """Of a row of the batch, a head and a block of queries; 0 where all share one."""
    row, head, query = part.stride()[:3]
    return (0 if part.shape[0] == 1 else row), (0 if part.shape[1] == 1 else head), query
