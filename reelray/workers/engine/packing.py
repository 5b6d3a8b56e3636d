"""Tensors as bytes for commits."""

import io
from typing import Any

import torch
from torch import Tensor


def on_cpu(value: Any) -> Any:
    """Bring every tensor in dictionaries and tuples to the CPU."""
    if isinstance(value, dict):
        return {name: on_cpu(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(map(on_cpu, value))
    return value.cpu() if isinstance(value, Tensor) else value


def pack(value: Any) -> bytes:
    """Write down what holds tensors and plain values only."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def unpack(data: bytes) -> Any:
    """Read what `pack` wrote, on the CPU."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
