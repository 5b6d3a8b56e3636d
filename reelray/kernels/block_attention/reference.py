"""Attention of blocks of queries over lists of blocks of keys, written out in torch.

Keys are gathered for one block of queries of all rows and heads at a time, so that the scores of a whole video are
never there at once. Shape suffixes: B batch, S query tokens, K key tokens, N heads, D head width, Q blocks of queries,
C capacity of a list, G blocks of keys, L gathered blocks, R rows of a block, T gathered tokens.
"""

import torch
from torch import Tensor

from reelray.kernels.block_attention.lists import BlockLists

Seed = tuple[Tensor, Tensor]
"""Mixed values [B, S, N, D] and logs of their sums [B, S, N] over other keys."""


def attend_blocks_reference(
    q_BSND: Tensor,
    k_BKND: Tensor,
    v_BKND: Tensor,
    lists: BlockLists,
    *,
    seed: Seed | None = None,
    precision: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Compute softmax(q k^T / sqrt(D)) v over the listed keys, and the log of the sums.

    Args:
        q_BSND: Queries.
        k_BKND: Keys; B may be 1.
        v_BKND: Values, likewise.
        lists: Which blocks of keys each block of queries attends; one that is out of range makes its block NaN.
        seed: The result over other keys, with which sums begin; minus infinity says that there is none.
        precision: What everything is computed in; float64 also for the results.

    Returns:
        Mixed values in the shape and dtype of `q_BSND`, and natural logs [B, S, N] in float32. Where nothing is
        attended, 0 and minus infinity.
    """
    batch, tokens, heads, _ = q_BSND.shape
    dtype = torch.float64 if precision is torch.float64 else q_BSND.dtype
    mixed_BSND = torch.empty_like(q_BSND, dtype=dtype, memory_format=torch.contiguous_format)
    lse_BSN = torch.empty((batch, tokens, heads), dtype=precision, device=q_BSND.device)
    for block, first in enumerate(range(0, tokens, lists.query_rows)):
        here = slice(first, first + lists.query_rows)
        picked_BNT, is_there_BNT, is_wrong_BN = _pick_keys(lists, block, batch, heads, k_BKND.shape[1])
        k_BNTD, v_BNTD = (_gather(part, picked_BNT, is_there_BNT, precision) for part in (k_BKND, v_BKND))
        q_BNSD = q_BSND[:, here].transpose(1, 2).to(precision)
        scores_BNST = q_BNSD @ k_BNTD.mT * q_BSND.shape[-1] ** -0.5
        scores_BNST.masked_fill_(~is_there_BNT[:, :, None], -torch.inf)
        part = None if seed is None else (seed[0][:, here].transpose(1, 2), seed[1][:, here].transpose(1, 2))
        block_BNSD, lse_BNS = _mix(scores_BNST, v_BNTD, part)
        mixed_BSND[:, here] = block_BNSD.masked_fill(is_wrong_BN[..., None, None], torch.nan).transpose(1, 2)
        lse_BSN[:, here] = lse_BNS.masked_fill(is_wrong_BN[..., None], torch.nan).transpose(1, 2)
    return mixed_BSND, lse_BSN


def _pick_keys(lists: BlockLists, block: int, batch: int, heads: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """The keys that a block of queries attends, which of them are there, and for which heads a list is wrong."""
    index_BNC = lists.index_BNQC[:, :, block].expand(batch, heads, -1).long()
    count_BN = lists.count_BNQ[:, :, block].expand(batch, heads)
    blocks, rows = -(-keys // lists.key_rows), lists.key_rows
    is_wrong_BN = (count_BN < 0) | (count_BN >= lists.capacity)
    longest = int(count_BN.masked_fill(is_wrong_BN, 0).max()) if count_BN.numel() else 0
    place_L = torch.arange(longest, device=index_BNC.device)
    is_listed_BNL = (place_L < count_BN[..., None]) & ~is_wrong_BN[..., None]
    index_BNL = index_BNC[..., :longest]
    is_lost_BNL = is_listed_BNL & ((index_BNL < 0) | (index_BNL >= blocks))
    is_listed_BNL = is_listed_BNL & ~is_lost_BNL
    index_BNL = index_BNL.masked_fill(~is_listed_BNL, 0)
    length_G = torch.full((blocks,), rows, device=index_BNC.device) if lists.length_G is None else lists.length_G
    length_BNL = length_G.long()[index_BNL] if blocks else index_BNL
    is_lost_BNL = is_lost_BNL | (is_listed_BNL & ((length_BNL < 0) | (length_BNL > rows)))
    row_R = torch.arange(rows, device=index_BNC.device)
    key_BNLR = index_BNL[..., None] * rows + row_R
    is_there_BNLR = is_listed_BNL[..., None] & (row_R < length_BNL[..., None]) & (key_BNLR < keys)
    picked_BNLR = key_BNLR.masked_fill(~is_there_BNLR, 0)
    return picked_BNLR.flatten(2), is_there_BNLR.flatten(2), is_wrong_BN | is_lost_BNL.any(-1)


def _gather(from_BKND: Tensor, picked_BNT: Tensor, is_there_BNT: Tensor, precision: torch.dtype) -> Tensor:
    """Tokens [B, N, T, D]; 0 where none is, since what lies there may be anything."""
    batch, heads, _ = picked_BNT.shape
    row = torch.arange(batch, device=from_BKND.device)[:, None, None] if len(from_BKND) > 1 else 0
    head = torch.arange(heads, device=from_BKND.device)[:, None]
    return from_BKND[row, picked_BNT, head].to(precision).masked_fill(~is_there_BNT[..., None], 0)


def _mix(scores_BNST: Tensor, v_BNTD: Tensor, seed: Seed | None) -> tuple[Tensor, Tensor]:
    """Softmax over the scores and the seed; 0 and minus infinity where there is neither."""
    lse_BNS = scores_BNST.logsumexp(-1)
    if seed is not None:
        before_BNS = seed[1].to(lse_BNS.dtype)
        lse_BNS = torch.logaddexp(lse_BNS, before_BNS)
    shift_BNS1 = lse_BNS.masked_fill(lse_BNS == -torch.inf, 0)[..., None]
    mixed_BNSD = (scores_BNST - shift_BNS1).exp() @ v_BNTD
    if seed is not None:
        has_seed_BNS1 = before_BNS[..., None] != -torch.inf
        weight_BNS1 = (before_BNS[..., None] - shift_BNS1).exp()
        mixed_BNSD = mixed_BNSD + torch.where(has_seed_BNS1, weight_BNS1 * seed[0].to(lse_BNS.dtype), 0)
    return mixed_BNSD, lse_BNS
