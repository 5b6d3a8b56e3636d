"""Device memory that processes of one machine share: the few calls of the CUDA driver that torch has no name for.

Torch's symmetric memory keeps what it knows of groups by name, for the whole process, and counts its exchanges; both
go wrong in a gang that has lost a rank, where some processes are new and others are not.
"""

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

GRAIN = 2 * 2**20
"""Smaller pieces would share a block, and the whole block would be opened."""
LAZY_PEER_ACCESS = 1
OUT_OF_MEMORY = 2


class _Handle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_char * 64),)


class _Array:
    """Lets torch read memory that it has not allocated."""

    def __init__(self, pointer: int, count: int) -> None:
        self.__cuda_array_interface__ = {"shape": (count,), "typestr": "|u1", "data": (pointer, False), "version": 3}


class SharedBytes:
    """Device memory of this process that others may open; ended by `free`.

    Args:
        count: At least so many bytes.
        device: Where.

    Raises:
        torch.OutOfMemoryError: There is no room.
        RuntimeError: The driver cannot share memory.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self._device = device
        size = -(-count // GRAIN) * GRAIN
        pointer = ctypes.c_uint64()
        with torch.cuda.device(device):
            torch.cuda.synchronize(device)
            if _driver().cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size)) == OUT_OF_MEMORY:
                torch.cuda.empty_cache()
                _check("cuMemAlloc", _driver().cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size)))
        self.pointer: int = pointer.value
        self.tensor: Tensor = torch.as_tensor(_Array(self.pointer, size), device=device)

    def export(self) -> bytes:
        """What another process needs to open it.

        Raises:
            RuntimeError: The driver cannot share it.
        """
        handle = _Handle()
        with torch.cuda.device(self._device):
            _check(
                "cuIpcGetMemHandle", _driver().cuIpcGetMemHandle(ctypes.byref(handle), ctypes.c_uint64(self.pointer))
            )
        return bytes(handle)

    def free(self) -> None:
        """Give it back, when nothing that reads or writes it runs; waits for the device."""
        with torch.cuda.device(self._device):
            torch.cuda.synchronize(self._device)
            _driver().cuMemFree_v2(ctypes.c_uint64(self.pointer))


def open_bytes(handle: bytes, device: torch.device) -> int:
    """Open the memory of another process for kernels on this device.

    Returns:
        Where it begins.

    Raises:
        RuntimeError: The driver cannot open it.
    """
    pointer = ctypes.c_uint64()
    with torch.cuda.device(device):
        torch.cuda.synchronize(device)
        given = _Handle.from_buffer_copy(handle)
        _check(
            "cuIpcOpenMemHandle",
            _driver().cuIpcOpenMemHandle_v2(ctypes.byref(pointer), given, ctypes.c_uint(LAZY_PEER_ACCESS)),
        )
    return pointer.value


def close_bytes(pointer: int, device: torch.device) -> None:
    """Close what `open_bytes` has opened."""
    with torch.cuda.device(device):
        torch.cuda.synchronize(device)
        _driver().cuIpcCloseMemHandle(ctypes.c_uint64(pointer))


def _check(call: str, code: int) -> None:
    if code == OUT_OF_MEMORY:
        raise torch.OutOfMemoryError(f"{call}: out of memory")
    if code:
        raise RuntimeError(f"{call} failed with code {code} of the CUDA driver")


@cache
def _driver() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise RuntimeError(f"the CUDA driver cannot be called: {error}") from error
