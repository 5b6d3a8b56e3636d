"""Which weight files a checkpoint has, how many parameters they hold, and a digest that names them.

Nothing here imports torch: a client describes checkpoints without waiting for it.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path

from reelray.proto.errors import WeightsError

INDEX_SUFFIX = ".safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
WHOLE_BYTES = 16 * 2**20
"""Files up to this size are hashed whole; larger ones by samples."""
SAMPLE_BYTES = 2**20
SAMPLES = 8


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


def count_parameters(file: Path) -> int:
    """Count the elements of a safetensors file, and check by its size that nothing is cut off.

    Raises:
        WeightsError: The file is missing, truncated or not in safetensors format.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise WeightsError(f"{file}: not a safetensors file, or truncated ({size} bytes)")
            header = json.loads(handle.read(length))
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        end = max((entry["data_offsets"][1] for entry in entries), default=0)
        count = sum(math.prod(int(side) for side in entry["shape"]) for entry in entries)
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError, TypeError, KeyError, IndexError) as error:
        raise WeightsError(f"{file}: not a safetensors file, or damaged; download the file again") from error
    if size != 8 + length + end:
        raise WeightsError(f"{file}: has {size} bytes where its header tells of {8 + length + end}; download it again")
    return count


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
