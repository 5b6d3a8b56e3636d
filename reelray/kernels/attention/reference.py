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


def merge_reference(
    mixed_BSND: Tensor, lse_BSN: Tensor, other_BSND: Tensor, other_BSN: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Merge attention of the same queries over two disjoint sets of keys, in float32.

    With w = exp(other) / (exp(lse) + exp(other)) the result is (1 - w) mixed + w other. A set without keys has minus
    infinity for a log, and then its values count for nothing; two such sets give 0 and minus infinity.

    Args:
        mixed_BSND: Mixed values over the first set.
        lse_BSN: Natural logs of its sums, float32.
        other_BSND: Mixed values over the second set.
        other_BSN: Natural logs of its sums, float32.
        dtype: Of the result.

    Returns:
        Mixed values over both in `dtype`, and the logs of their sums in float32.
    """
    has_none_BSN, has_no_other_BSN = lse_BSN == -torch.inf, other_BSN == -torch.inf
    weight_BSN1 = torch.sigmoid((other_BSN - lse_BSN).masked_fill(has_none_BSN & has_no_other_BSN, 0)).unsqueeze(-1)
    one_BSND = mixed_BSND.float().masked_fill(has_none_BSN[..., None], 0)
    two_BSND = other_BSND.float().masked_fill(has_no_other_BSN[..., None], 0)
    return torch.lerp(one_BSND, two_BSND, weight_BSN1).to(dtype), torch.logaddexp(lse_BSN, other_BSN)


def merge_all_reference(mixed_PBSND: Tensor, lse_PBSN: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Merge attention of the same queries over disjoint sets of keys, in float32.

    With weights softmax(lse) over the sets the result is their weighted sum; see `merge_reference` for sets
    without keys.

    Args:
        mixed_PBSND: Mixed values over each set.
        lse_PBSN: Natural logs of their sums, float32.
        dtype: Of the result.

    Returns:
        Mixed values over all in `dtype`, and the logs of their sums in float32.
    """
    has_none_PBSN = lse_PBSN == -torch.inf
    weight_PBSN = lse_PBSN.softmax(0).masked_fill(has_none_PBSN, 0)
    values_PBSND = mixed_PBSND.float().masked_fill(has_none_PBSN.unsqueeze(-1), 0)
    return (weight_PBSN.unsqueeze(-1) * values_PBSND).sum(0).to(dtype), lse_PBSN.logsumexp(0)
