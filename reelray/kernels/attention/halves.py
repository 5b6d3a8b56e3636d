"""Attention over keys that are cut into equal parts: each is a row of the batch, and the results are merged.

A chunk of a stream has few queries and many keys. Its tiles of queries are so few that they fill a GPU's processors
unevenly; twice as many fill them better. Shape suffixes: B batch, S query tokens, K key tokens, N heads, D head width,
P parts.
"""

from functools import cache

import torch
from torch import Tensor

from reelray.kernels.attention.lse import HALF, attend_with_lse, merge_partials

PARTS = 2
FEWEST_KEYS = 8192
QUERY_TILE, WAVES = 128, 4


def has_uneven_waves(q_BSND: Tensor, k_BKND: Tensor) -> bool:
    """Whether cutting the keys pays, as measured: few tiles of queries, many keys, one row.

    On an H200, 4 680 queries of 12 heads take 0.89 in place of 1.01 ms over 18 720 keys; with 40 heads 3.24 in place of
    3.32 ms, which the merge costs again.
    """
    batch, queries, heads, _ = q_BSND.shape
    keys = k_BKND.shape[1]
    if batch > 1 or keys < FEWEST_KEYS or keys % PARTS or q_BSND.dtype not in HALF:
        return False
    return heads * -(-queries // QUERY_TILE) <= WAVES * _processors(q_BSND.device)


def attend_in_parts(q_1SND: Tensor, k_1KND: Tensor, v_1KND: Tensor, *, parts: int = PARTS) -> Tensor:
    """Compute softmax(q k^T / sqrt(D)) v over `parts` equal sets of keys, and merge; for inference.

    Args:
        q_1SND: Queries.
        k_1KND: Keys; K is a multiple of `parts`.
        v_1KND: Values.
        parts: Sets of keys.

    Returns:
        Mixed values, shape and dtype of `q_1SND`.
    """
    cut = [torch.unflatten(part_1KND[0], 0, (parts, -1)) for part_1KND in (k_1KND, v_1KND)]
    mixed_PSND, lse_PSN = attend_with_lse(q_1SND.expand(parts, -1, -1, -1), *cut)
    mixed_1SND, lse_1SN = mixed_PSND[:1], lse_PSN[:1]
    for part in range(1, parts):
        dtype = q_1SND.dtype if part == parts - 1 else torch.float32
        further = slice(part, part + 1)
        mixed_1SND, lse_1SN = merge_partials(mixed_1SND, lse_1SN, mixed_PSND[further], lse_PSN[further], dtype=dtype)
    return mixed_1SND


@cache
def _processors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
