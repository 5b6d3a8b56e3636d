"""Safetensors files: read straight into the destination, write straight from it.

Reading here instead of through a memory map keeps file pages out of the process and lets every fault name its file.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import torch
from torch import Tensor

from reelray.proto.errors import WeightsError
from reelray.workers.weights.safetensors_header import StoredTensor, read_header
from reelray.workers.weights.source import TensorFacts

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
SCRATCH_BYTES = 16 << 20


class SafetensorsSource:
    """One or several safetensors files as a `TensorSource`.

    Args:
        files: The shards.

    Raises:
        WeightsError: A file is missing, truncated or not a safetensors file, or two files hold the same name.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.tensors: dict[str, TensorFacts] = {}
        self._ranges: dict[str, tuple[Path, int, int]] = {}
        self._open: dict[Path, BinaryIO] = {}
        for file in files:
            for name, stored in read_header(file).items():
                if name in self.tensors:
                    raise WeightsError(f"{file}: tensor {name} is also in {self.tensors[name].file}")
                self.tensors[name] = _place(file, name, stored)
                self._ranges[name] = (file, stored.start, stored.end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._open.values():
            handle.close()
        self._open.clear()

    def read(self, name: str, out: Tensor) -> None:
        """Copy a tensor into `out`; see `TensorSource.read`."""
        file, start, end = self._ranges[name]
        facts = self.tensors[name]
        if file not in self._open:
            self._open[file] = file.open("rb", buffering=0)
        handle = self._open[file]
        handle.seek(start)
        if out.device.type == "cpu" and out.dtype == facts.dtype and out.is_contiguous():
            _read_exactly(handle, out, file)
            return
        flat = out.view(-1) if out.is_contiguous() else None
        if flat is None:
            whole = torch.empty(facts.shape, dtype=facts.dtype)
            _read_exactly(handle, whole, file)
            out.copy_(whole)
            return
        # Convert through a small scratch: the peak is the destination plus this.
        step = max(1, SCRATCH_BYTES // facts.dtype.itemsize)
        count = (end - start) // facts.dtype.itemsize
        scratch = torch.empty(min(step, count), dtype=facts.dtype)
        for first in range(0, count, step):
            part = scratch[: min(step, count - first)]
            _read_exactly(handle, part, file)
            flat[first : first + part.numel()].copy_(part)


def _place(file: Path, name: str, stored: StoredTensor) -> TensorFacts:
    if stored.dtype not in DTYPES:
        raise WeightsError(f"{file}: tensor {name} has dtype {stored.dtype}; known are {', '.join(DTYPES)}")
    dtype = DTYPES[stored.dtype]
    held, wanted = stored.end - stored.start, stored.elements * dtype.itemsize
    if held != wanted:
        raise WeightsError(f"{file}: tensor {name} spans {held} bytes; shape {list(stored.shape)} needs {wanted}")
    return TensorFacts(shape=stored.shape, dtype=dtype, file=str(file))


def _read_exactly(handle: BinaryIO, out: Tensor, file: Path) -> None:
    view = out.detach().reshape(-1).view(torch.uint8).numpy().data if out.numel() else memoryview(b"")
    done = 0
    while done < len(view):
        # Linux moves at most 2 GiB in one call.
        count = handle.readinto(view[done : done + (1 << 30)])  # type: ignore[attr-defined]
        if not count:
            raise WeightsError(f"{file}: ends early; download the file again")
        done += count


def write_safetensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a file that appears under its name only when complete.

    Tensors may be views that share storage; each is brought to the CPU by itself.

    Args:
        file: Destination; its folder exists.
        tensors: Any device and dtype of the format.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        entry = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = {**entry, "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as handle:
            handle.write(len(head).to_bytes(8, "little"))
            handle.write(head)
            for tensor in tensors.values():
                handle.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
