"""Small things on their way to a device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def put_on(device: torch.device, values: Sequence[float] | Sequence[int], dtype: torch.dtype) -> Tensor:
    """Numbers as a tensor of one dim there; a GPU that is busy is not waited for, as `torch.tensor` would."""
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)
