"""In which dtype each part of a Wan checkpoint computes."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Dtypes:
    """Dtypes of the parts."""

    transformer: torch.dtype
    text: torch.dtype
    vae: torch.dtype


def choose_dtypes(device: torch.device, dtype: torch.dtype | None, vae_dtype: torch.dtype | None) -> Dtypes:
    """Fill in what was not said: bfloat16 on a GPU, float32 on a CPU.

    Args:
        device: Where the model runs.
        dtype: Wish for transformer and text encoders.
        vae_dtype: Wish for the VAE; None follows `dtype`.

    Raises:
        ValueError: A wish is neither float32 nor bfloat16.
    """
    for wish in (dtype, vae_dtype):
        if wish not in {None, torch.float32, torch.bfloat16}:
            raise ValueError(f"dtype is {wish}; allowed: torch.float32, torch.bfloat16")
    base = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    return Dtypes(transformer=base, text=base, vae=vae_dtype or base)
