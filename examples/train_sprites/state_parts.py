"""Training states as a few files of bounded size, for machines that can be taken away and give back little.

What is kept of a float32 weight is its upper three bytes (15 stored bits of mantissa, a relative error below 2**-15):
three quarters of the bytes, and far finer than one optimiser step. Parts are new files, and the list of them is
replaced last, so that a run that dies while saving leaves the last state whole.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PART_BYTES = 15 * 2**20


def pack(values: Tensor) -> Tensor:
    """Keep three bytes of each float32; uint8 of shape [3 * count]."""
    return values.detach().float().cpu().contiguous().view(torch.uint8).view(-1, 4)[:, 1:].contiguous().flatten()


def unpack(packed: Tensor, shape: torch.Size) -> Tensor:
    """Undo `pack`: float32 of `shape`, on the CPU."""
    whole = torch.zeros(packed.numel() // 3, 4, dtype=torch.uint8)
    whole[:, 1:] = packed.view(-1, 3)
    return whole.flatten().view(torch.float32).view(shape)


def write_parts(state: dict[str, Any], folder: Path, *, part_bytes: int = PART_BYTES) -> list[Path]:
    """Write `state.json`, the list of parts, and `state-DIGEST-N.bin`, the parts; drop those of older states.

    Args:
        state: What `torch.save` takes.
        folder: Exists.
        part_bytes: Most bytes in one file.

    Returns:
        The files written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getbuffer()
    digest = hashlib.sha256(data).hexdigest()
    names = [f"state-{digest[:8]}-{number}.bin" for number in range(-(-len(data) // part_bytes))]
    for number, name in enumerate(names):
        (folder / name).write_bytes(data[number * part_bytes : (number + 1) * part_bytes])
    draft = folder / "state.json.new"
    draft.write_text(json.dumps({"sha256": digest, "parts": names}))
    draft.replace(folder / "state.json")
    for old in folder.glob("state-*.bin"):
        if old.name not in names:
            old.unlink()
    return [folder / "state.json", *(folder / name for name in names)]


def read_parts(folder: Path) -> dict[str, Any] | None:
    """Read what `write_parts` wrote; None where nothing was.

    Raises:
        ValueError: A part is missing or damaged.
    """
    index = folder / "state.json"
    if not index.exists():
        return None
    wanted = json.loads(index.read_text())
    missing = [name for name in wanted["parts"] if not (folder / name).exists()]
    if missing:
        raise ValueError(f"{folder} lacks {missing}; all parts that state.json lists are needed")
    data = b"".join((folder / name).read_bytes() for name in wanted["parts"])
    if hashlib.sha256(data).hexdigest() != wanted["sha256"]:
        raise ValueError(f"the parts in {folder} do not have the checksum of state.json; copy them again")
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state
