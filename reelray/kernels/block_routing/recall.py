"""What lists leave out, measured: a tool for tables and tests, not for the request path.

Shape suffixes: B batch, S query tokens, K key tokens, N heads, D head width, Q blocks of queries, G blocks of keys.
"""

import torch
from torch import Tensor

from reelray.kernels.block_attention.lists import BlockLists


def kept_mass(q_BSND: Tensor, k_BKND: Tensor, lists: BlockLists, *, scale: float | None = None) -> Tensor:
    """Compute the share of exact softmax mass that lists keep.

    One block of queries is worked on at a time, so memory grows with the length, not with its square. Some blocks of
    queries alone are measured by passing them and their lists alone.

    Args:
        q_BSND: Queries.
        k_BKND: Keys.
        lists: What is kept.
        scale: Of the products; 1 / sqrt(D) by default.

    Returns:
        Mean over the tokens of each block of queries, float32 [B, N, Q].

    Raises:
        ValueError: Lists do not belong to these tokens.
    """
    tokens, keys, rows = q_BSND.shape[1], k_BKND.shape[1], lists.key_rows
    queries, blocks = -(-tokens // lists.query_rows), -(-keys // rows)
    if lists.count_BNQ.shape[2] != queries:
        raise ValueError(f"{lists.count_BNQ.shape[2]} lists of {lists.query_rows} rows are not of {tokens} tokens")
    scale = q_BSND.shape[-1] ** -0.5 if scale is None else scale
    place = torch.arange(keys, device=k_BKND.device)
    block_K = place // rows
    is_there = torch.ones_like(place, dtype=torch.bool)
    if lists.length_G is not None:
        is_there = place % rows < lists.length_G[block_K]
    mask_BNQG = lists.mask(blocks)
    k_BNDK = k_BKND.permute(0, 2, 3, 1).float()
    recalls = []
    for query in range(queries):
        q_BNSD = q_BSND[:, query * lists.query_rows : (query + 1) * lists.query_rows].transpose(1, 2).float()
        logits = (q_BNSD @ k_BNDK * scale).masked_fill(~is_there, -torch.inf)
        kept = logits.softmax(-1).masked_fill(~mask_BNQG[:, :, query][:, :, None, block_K], 0.0)
        recalls.append(kept.sum(-1).mean(-1))
    return torch.stack(recalls, dim=2)
