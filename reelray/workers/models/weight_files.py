"""Weight files of a checkpoint, looked at without loading a tensor and without torch.

A safetensors file is an 8-byte little-endian header length, a JSON header with every tensor's dtype, shape and byte
range, and the data. A truncated file shows in its size alone.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reelray.proto.errors import WeightsError

INDEX_SUFFIX = ".safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
WHOLE_BYTES = 16 * 2**20
"""Files up to this size are hashed whole; larger ones by samples."""
SAMPLE_BYTES = 2**20
SAMPLES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorEntry:
    """One tensor of a file's header.

    Args:
        dtype: safetensors' name, such as ``BF16``.
        shape: Shape.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def find_weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a component folder.

    Args:
        folder: Such as `transformer/`, with one file, or shards and their index.

    Returns:
        Every file, sorted by name.

    Raises:
        WeightsError: The folder is missing, holds no weights, or lacks a shard of its index.
    """
    if not folder.is_dir():
        raise WeightsError(f"{folder}: this folder is missing; a diffusers checkpoint has it")
    indices = sorted(folder.glob("*" + INDEX_SUFFIX))
    if indices:
        return _find_shards(indices[0])
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files
    if not files:
        raise WeightsError(f"{folder}: holds no .safetensors file; weights in safetensors format are needed")
    raise WeightsError(f"{folder}: holds {len(files)} .safetensors files and no {INDEX_SUFFIX} file that lists them")


def _find_shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{index}: not a readable shard index") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise WeightsError(f"{index.parent}: {len(missing)} of {len(names)} shards missing: {', '.join(missing[:4])}")
    return [index.parent / name for name in names]


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Read which tensors a safetensors file holds, and check that none is cut off.

    Raises:
        WeightsError: The file is missing, truncated or not in safetensors format.
    """
    header, start = _read_raw_header(path)
    entries, end = {}, 0
    for name, raw in header.items():
        if name == "__metadata__":
            continue
        try:
            entries[name] = TensorEntry(dtype=raw["dtype"], shape=tuple(raw["shape"]))
            end = max(end, int(raw["data_offsets"][1]))
        except (TypeError, KeyError, IndexError, ValueError) as error:
            raise WeightsError(f"{path}: header entry {name!r} is not valid") from error
    size = path.stat().st_size
    if size < start + end:
        raise WeightsError(f"{path}: truncated: {size} bytes of {start + end}; fetch the file again")
    return entries


def _read_raw_header(path: Path) -> tuple[dict[str, Any], int]:
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            text = file.read(length) if length <= MAX_HEADER_BYTES else b""
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    if len(prefix) < 8 or len(text) < length <= MAX_HEADER_BYTES:
        raise WeightsError(f"{path}: truncated: the header is cut off; fetch the file again")
    try:
        header = json.loads(text)
    except ValueError as error:
        raise WeightsError(f"{path}: not a safetensors file") from error
    if not isinstance(header, dict):
        raise WeightsError(f"{path}: not a safetensors file")
    return header, 8 + length


def digest_files(paths: Iterable[Path], root: Path) -> str:
    """Hash files by name, size and content: small ones whole, large ones by evenly spread samples.

    A digest names a checkpoint; it does not protect against a forger.

    Args:
        paths: Files below `root`.
        root: Folder that names are relative to.

    Returns:
        32 hex digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(paths):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(root).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= WHOLE_BYTES:
                digest.update(file.read())
                continue
            for index in range(SAMPLES):
                file.seek((size - SAMPLE_BYTES) * index // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
