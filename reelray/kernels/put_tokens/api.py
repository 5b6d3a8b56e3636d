"""Copies keys and values through Triton on CUDA where rows are contiguous, through torch elsewhere.

Shape suffixes: S tokens, N heads, D head width.
"""

import importlib.util

from torch import Tensor

from reelray.kernels.put_tokens import reference

HAS_TRITON = importlib.util.find_spec("triton") is not None


def put_tokens(keys_SND: Tensor, values_SND: Tensor, to_keys_SND: Tensor, to_values_SND: Tensor) -> None:
    """Copy keys and values into their place; see `reference.put_tokens`.

    Raises:
        ValueError: Shapes or dtypes differ.
    """
    tensors = (keys_SND, values_SND, to_keys_SND, to_values_SND)
    if len({(tensor.shape, tensor.dtype) for tensor in tensors}) > 1:
        raise ValueError(f"keys, values and their places are {[(list(t.shape), t.dtype) for t in tensors]}; must agree")
    if not (HAS_TRITON and keys_SND.device.type == "cuda" and keys_SND.numel() and all(map(_has_rows, tensors))):
        reference.put_tokens(*tensors)
        return
    from reelray.kernels.put_tokens import triton as kernels  # noqa: PLC0415  (triton exists on GPU machines only)

    kernels.put_tokens(*tensors)


def _has_rows(tensor_SND: Tensor) -> bool:
    """Whether the channels of a token lie side by side."""
    _, heads, width = tensor_SND.shape
    return tensor_SND.stride(2) == 1 and (heads == 1 or tensor_SND.stride(1) == width)
