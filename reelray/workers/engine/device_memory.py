"""Memory and health of this rank's device."""

import resource
import sys

import torch


def peak_bytes(device: torch.device) -> int:
    """Peak device memory on a GPU, peak resident memory of this process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name(device: torch.device) -> str:
    """Such as ``cpu`` or ``NVIDIA H200``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def check_device(device: torch.device) -> None:
    """Wait for a device, give back memory that nobody uses, and compute something on it.

    Raises:
        RuntimeError: It is in a state of error, which on CUDA lasts until the process ends.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    torch.ones(1, device=device).add_(1).item()


class DeviceMeter:
    """Reads what torch uses of a GPU. What `peak_bytes` tells counts from the last `restart`.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def restart(self) -> None:
        """Forget the peak."""
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)

    def used(self) -> int:
        """Bytes in use."""
        return torch.cuda.memory_allocated(self._device)

    def peak(self) -> int:
        """Most bytes in use since `restart`."""
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device)

    def settle(self) -> None:
        """Give back what nobody uses."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
