"""The one door to dense attention: picks the backend by device.

Shape suffixes: B batch, S query tokens, K key tokens, N heads, D head width.
"""

import importlib.util

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from reelray.kernels.attention.halves import attend_in_parts, has_uneven_waves

CUDA_BACKENDS = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
FEW_KEYS = 128
HAS_TRITON = importlib.util.find_spec("triton") is not None


def attend(q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor, *, bias_BK: Tensor | None = None) -> Tensor:
    """Compute softmax(q k^T / sqrt(D) + bias) v.

    On CUDA without gradients, half precision over few keys, such as a prompt's, goes to a kernel of ours, and few
    queries over many keys, such as a chunk's over its memory, to cuDNN with the keys cut in two. Everything else goes
    to torch, where backends read the [B, S, N, D] layout through strides: nothing is copied. On CUDA they are asked in
    the order cuDNN, flash, memory-efficient, plain; cuDNN is the fastest one on Hopper (1.6 to 1.8 times flash).

    Args:
        q_BSND: Queries; the last dim must be contiguous.
        k_BKND: Keys, same dtype.
        v_BKND: Values, same dtype.
        bias_BK: Added to every score of a key, float32 or the dtype of `q_BSND`; minus infinity hides the key.

    Returns:
        Mixed values, shape and dtype of `q_BSND`, contiguous where the backend gives it.
    """
    if q_BSND.device.type != "cuda":
        return _call_sdpa(q_BSND, k_BKND, v_BKND, bias_BK)
    if _has_few_keys(q_BSND, k_BKND, v_BKND):
        from reelray.kernels.attention import triton as kernels  # noqa: PLC0415  (triton exists on GPU machines only)

        few_BSND: Tensor = kernels.attend_few_keys(q_BSND, k_BKND, v_BKND, bias_BK)
        return few_BSND
    if bias_BK is None and _infers(q_BSND, k_BKND, v_BKND) and HAS_TRITON and has_uneven_waves(q_BSND, k_BKND):
        return attend_in_parts(q_BSND, k_BKND, v_BKND)
    with sdpa_kernel(list(CUDA_BACKENDS), set_priority=True):
        return _call_sdpa(q_BSND, k_BKND, v_BKND, bias_BK)


def _has_few_keys(q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor) -> bool:
    width = q_BSND.shape[-1]
    return (
        HAS_TRITON
        and k_BKND.shape[1] <= FEW_KEYS
        and q_BSND.dtype in {torch.bfloat16, torch.float16}
        and width in {32, 64, 128}
        and _infers(q_BSND, k_BKND, v_BKND)
    )


def _infers(*parts: Tensor) -> bool:
    """Whether nobody will ask for gradients."""
    return not (torch.is_grad_enabled() and any(part.requires_grad for part in parts))


def _call_sdpa(q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor, bias_BK: Tensor | None) -> Tensor:
    mask = None if bias_BK is None else bias_BK[:, None, None, :].to(q_BSND.dtype)
    mixed_BNSD: Tensor = scaled_dot_product_attention(
        q_BSND.transpose(1, 2), k_BKND.transpose(1, 2), v_BKND.transpose(1, 2), attn_mask=mask
    )
    return mixed_BNSD.transpose(1, 2)
