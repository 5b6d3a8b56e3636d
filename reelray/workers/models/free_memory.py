"""Memory of a device that can still be had."""

from collections.abc import Iterable, Mapping
from typing import Any

import psutil
import torch

COMMON_POOL = (0, 0)
"""What torch calls the pool of everything but recorded CUDA graphs."""


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be had on a device; on a GPU, those that torch keeps in reserve are included.

    Not so what the pools of CUDA graphs hold: whatever is free in them comes back only to the graphs.
    """
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    index = torch.cuda.current_device() if device.index is None else device.index
    segments = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
    return torch.cuda.mem_get_info(device)[0] + spare_bytes(segments, index)


def spare_bytes(segments: Iterable[Mapping[str, Any]], device: int) -> int:
    """Bytes in reserve that torch hands out to whoever asks.

    Args:
        segments: Of `torch.cuda.memory_snapshot`: of each its `device`, its `segment_pool_id`, and of its `total_size`
            the `active_size`, which is in use or waits for a stream.
        device: Index of the device.
    """
    common = [s for s in segments if s["device"] == device and tuple(s["segment_pool_id"]) == COMMON_POOL]
    return sum(segment["total_size"] - segment["active_size"] for segment in common)
