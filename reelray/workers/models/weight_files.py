"""Which weight files a checkpoint has, how many parameters they hold, and a digest that names them.

Nothing here imports torch: a client describes checkpoints without waiting for it.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from reelray.proto.errors import WeightsError
from reelray.workers.weights.safetensors_header import read_header, read_shard_index

INDEX_SUFFIX = ".safetensors.index.json"
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
        return read_shard_index(indices[0])
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files
    if not files:
        raise WeightsError(f"{folder}: holds no .safetensors file; weights in safetensors format are needed")
    raise WeightsError(f"{folder}: holds {len(files)} .safetensors files and no {INDEX_SUFFIX} file that lists them")


def count_parameters(file: Path) -> int:
    """Count the elements of a safetensors file, and check by its size that nothing is cut off.

    Raises:
        WeightsError: The file is missing, truncated or not in safetensors format.
    """
    return sum(stored.elements for stored in read_header(file).values())


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
