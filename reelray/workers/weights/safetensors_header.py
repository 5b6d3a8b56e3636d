"""What a safetensors file says of itself, and which files a shard index names. Imports no torch.

The format is eight bytes of header length, a JSON header (name to dtype, shape, byte range), then the bytes.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reelray.proto.errors import WeightsError

MAX_HEADER_BYTES = 100_000_000
AGAIN = "download the file again"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """An entry of a header.

    Args:
        dtype: The format's name for it, such as ``BF16``.
        shape: Shape.
        start: First byte in the file.
        end: Byte after the last.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Read what a safetensors file holds and where, and check by its size that nothing is cut off.

    Raises:
        WeightsError: The file is missing, truncated or damaged.
    """
    size, base, header = _read_json(file)
    header.pop("__metadata__", None)
    found = {name: _read_entry(file, name, entry, base) for name, entry in header.items()}
    end = max((stored.end for stored in found.values()), default=base)
    if end != size:
        raise WeightsError(f"{file}: has {size} bytes where its header tells of {end}; {AGAIN}")
    return found


def read_shard_index(index: Path) -> list[Path]:
    """List the shards that an index names, all of them present, sorted by name.

    Raises:
        WeightsError: The index is damaged or names a file outside its folder, or a shard is missing.
    """
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        strangers = [name for name in shards if Path(name).name != name]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"{index}: is not an index of shards; {AGAIN}") from error
    if strangers:
        raise WeightsError(f"{index}: names {strangers[0]!r}; a shard lies beside its index")
    missing = [name for name in shards if not (index.parent / name).is_file()]
    if missing:
        raise WeightsError(f"{index.parent / missing[0]}: the shard is missing ({len(missing)} of {len(shards)})")
    return [index.parent / name for name in shards]


def _read_json(file: Path) -> tuple[int, int, dict[str, Any]]:
    """Size of the file, where its data begin, and its header."""
    try:
        size = file.stat().st_size
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise WeightsError(f"{file}: not a safetensors file, or truncated ({size} bytes)")
            header = json.loads(handle.read(length))
    except FileNotFoundError:
        raise WeightsError(f"{file}: the file is missing") from None
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise WeightsError(f"{file}: the header is damaged; {AGAIN}") from error
    if not isinstance(header, dict):
        raise WeightsError(f"{file}: the header is damaged; {AGAIN}")
    return size, 8 + length, header


def _read_entry(file: Path, name: str, entry: Any, base: int) -> StoredTensor:
    try:
        start, end = (int(offset) for offset in entry["data_offsets"])
        shape = tuple(int(side) for side in entry["shape"])
        stored = StoredTensor(dtype=str(entry["dtype"]), shape=shape, start=base + start, end=base + end)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{file}: the header entry of {name} is damaged; {AGAIN}") from error
    if start < 0 or end < start or min(shape, default=0) < 0:
        raise WeightsError(f"{file}: the header entry of {name} is damaged; {AGAIN}")
    return stored
