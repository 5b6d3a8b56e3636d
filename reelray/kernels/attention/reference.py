"""Attention written out in float32: what every backend is measured against.

Shape suffixes: B batch, S query tokens, K key tokens, N heads, D head width.
"""

import torch
from torch import Tensor


def attend_reference(q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor, bias_BK: Tensor | None = None) -> Tensor:
    """Compute softmax(q k^T / sqrt(D) + bias) v in float32.

    Args:
        q_BSND: Queries.
        k_BKND: Keys.
        v_BKND: Values.
        bias_BK: Added to every score of a key; minus infinity hides the key.

    Returns:
        Mixed values, shape and dtype of `q_BSND`.
    """
    scores_BNSK = torch.einsum("bsnd,bknd->bnsk", q_BSND.float(), k_BKND.float()) * q_BSND.shape[-1] ** -0.5
    if bias_BK is not None:
        scores_BNSK = scores_BNSK + bias_BK[:, None, None, :].float()
    return torch.einsum("bnsk,bknd->bsnd", scores_BNSK.softmax(-1), v_BKND.float()).to(q_BSND.dtype)


def attend_with_lse_reference(q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor) -> tuple[Tensor, Tensor]:
    """Compute softmax(q k^T / sqrt(D)) v and log sum exp(q k^T / sqrt(D)) in float32.

    Args:
        q_BSND: Queries.
        k_BKND: Keys.
        v_BKND: Values.

    Returns:
        Mixed values in the shape and dtype of `q_BSND`, and the logs [B, S, N] in float32.
    """
    scores_BNSK = torch.einsum("bsnd,bknd->bnsk", q_BSND.float(), k_BKND.float()) * q_BSND.shape[-1] ** -0.5
    mixed_BSND = torch.einsum("bnsk,bknd->bsnd", scores_BNSK.softmax(-1), v_BKND.float()).to(q_BSND.dtype)
    return mixed_BSND, scores_BNSK.logsumexp(-1).transpose(1, 2)


def merge_parts_reference(mixed_PSND: Tensor, lse_PSN: Tensor) -> Tensor:
    """Merge attention of the same queries over P disjoint sets of keys, in float32.

    Args:
        mixed_PSND: Mixed values over each set.
        lse_PSN: Natural logs of each set's sums, float32.

    Returns:
        Mixed values over all keys [1, S, N, D], dtype of `mixed_PSND`.
    """
    weight_PSN1 = torch.softmax(lse_PSN.float(), 0)[..., None]
    return (weight_PSN1 * mixed_PSND.float()).sum(0, keepdim=True).to(mixed_PSND.dtype)
