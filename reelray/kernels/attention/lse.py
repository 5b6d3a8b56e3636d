"""Attention that also returns the log of its sums, and the merge of two such results over different keys.

Shape suffixes: B batch, S query tokens, K key tokens, N heads, D head width,
P sets of keys.
"""

import torch
from torch import Tensor

from reelray.kernels.attention.reference import attend_with_lse_reference, merge_all_reference, merge_reference

HALF = (torch.float16, torch.bfloat16)
MOST_SETS = 8


def attend_with_lse(q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor) -> tuple[Tensor, Tensor]:
    """Compute softmax(q k^T / sqrt(D)) v and log sum exp(q k^T / sqrt(D)), for inference.

    On CUDA the backends are asked in the order cuDNN, flash, memory-efficient; where none takes the tensors, and on
    devices without a fused kernel, the float32 formula is computed.

    Args:
        q_BSND: Queries; the last dim must be contiguous.
        k_BKND: Keys, same dtype.
        v_BKND: Values, same dtype.

    Returns:
        Mixed values in the shape and dtype of `q_BSND`, and the natural logs [B, S, N] in float32.
    """
    batch, queries, heads, _ = q_BSND.shape
    parts = (q_BSND.transpose(1, 2), k_BKND.transpose(1, 2), v_BKND.transpose(1, 2))
    if q_BSND.device.type == "cpu":
        mixed_BNSD, lse_BNS = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*parts)  # noqa: SLF001
    elif q_BSND.device.type == "cuda" and (found := _attend_on_cuda(*parts)) is not None:
        mixed_BNSD, lse_BNS = found
    else:
        return attend_with_lse_reference(q_BSND, k_BKND, v_BKND)
    # cuDNN keeps a last dim of 1, the memory-efficient kernel pads the queries to a multiple of 32.
    lse_BNS = lse_BNS.reshape(batch, heads, -1)[:, :, :queries]
    return mixed_BNSD.transpose(1, 2), lse_BNS.transpose(1, 2).float()


def merge_partials(
    mixed_BSND: Tensor,
    lse_BSN: Tensor,
    other_BSND: Tensor,
    other_BSN: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Merge attention over two disjoint sets of keys: what attention over both together gives.

    Args:
        mixed_BSND: Mixed values over the first set, any float dtype; the last dim must be contiguous.
        lse_BSN: Logs of its sums, float32.
        other_BSND: Mixed values over the second set, likewise.
        other_BSN: Logs of its sums, float32.
        dtype: Of the mixed values; float32 where they are to be merged again.

    Returns:
        Mixed values over both, and the logs of their sums in float32.
    """
    if mixed_BSND.device.type != "cuda":
        return merge_reference(mixed_BSND, lse_BSN, other_BSND, other_BSN, dtype)
    from reelray.kernels.attention import merge  # noqa: PLC0415  (triton exists on GPU machines only)

    merged: tuple[Tensor, Tensor] = merge.merge(mixed_BSND, lse_BSN, other_BSND, other_BSN, dtype)
    return merged


def merge_all(mixed_PBSND: Tensor, lse_PBSN: Tensor, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Merge attention over disjoint sets of keys in one pass: what attention over all of them gives.

    Args:
        mixed_PBSND: Mixed values over each of at most 8 sets, any float dtype.
        lse_PBSN: Logs of their sums, float32; minus infinity where a set has no keys.
        dtype: Of the mixed values; float32 where they are to be merged again.

    Returns:
        Mixed values over all, and the logs of their sums in float32; 0 and minus infinity where no set has keys.

    Raises:
        ValueError: There are no sets or too many, or values and logs do not belong together.
    """
    if not 1 <= len(mixed_PBSND) <= MOST_SETS or lse_PBSN.shape != mixed_PBSND.shape[:-1]:
        raise ValueError(
            f"values are {list(mixed_PBSND.shape)}, logs {list(lse_PBSN.shape)}; both have 1 to {MOST_SETS} sets"
        )
    if mixed_PBSND.device.type != "cuda":
        return merge_all_reference(mixed_PBSND, lse_PBSN, dtype)
    from reelray.kernels.attention import merge  # noqa: PLC0415  (triton exists on GPU machines only)

    merged: tuple[Tensor, Tensor] = merge.merge_all(mixed_PBSND, lse_PBSN, dtype)
    return merged


def _attend_on_cuda(q_BNSD: Tensor, k_BNKD: Tensor, v_BNKD: Tensor) -> tuple[Tensor, Tensor] | None:
    ops, cuda = torch.ops.aten, torch.backends.cuda
    parts = (q_BNSD, k_BNKD, v_BNKD)
    asked = cuda.SDPAParams(q_BNSD, k_BNKD, v_BNKD, None, 0.0, False, False)
    # Called below torch's own front door, which would pad the width of a head to a multiple of 8.
    fits_half = q_BNSD.dtype in HALF and q_BNSD.shape[-1] % 8 == 0
    if fits_half and cuda.can_use_cudnn_attention(asked):
        found = ops._scaled_dot_product_cudnn_attention(*parts, None, True)  # noqa: SLF001
    elif fits_half and cuda.can_use_flash_attention(asked):
        found = ops._scaled_dot_product_flash_attention(*parts)  # noqa: SLF001
    elif q_BNSD.shape[-1] % 8 == 0 and cuda.can_use_efficient_attention(asked):
        found = ops._scaled_dot_product_efficient_attention(*parts, None, True)  # noqa: SLF001
    else:
        return None
    return found[0], found[1]
