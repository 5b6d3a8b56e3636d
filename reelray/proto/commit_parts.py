"""Names of the parts of what ranks write down of a request: commits and snapshots."""

from collections.abc import Mapping

CHUNK_PART = "chunk"
"""Part of a commit: the chunk in work, with its solver."""
DECODE_PART = "decode"
"""Part of a commit: the decoder's state, and what waits for it on the ranks that hold it."""
_HISTORY = "history."


def history_part(number: int) -> str:
    """Name of the part of a commit that holds the input of forward `number` of those that were remembered."""
    return f"{_HISTORY}{number}"


def find_history(parts: Mapping[str, bytes]) -> dict[str, bytes]:
    """The parts of that kind in order: they are written once each, and all are needed."""
    found = {name: data for name, data in parts.items() if name.startswith(_HISTORY)}
    return dict(sorted(found.items(), key=lambda item: int(item[0].removeprefix(_HISTORY))))


def clean_part(first_latent_frame: int) -> str:
    """Name of the part of a commit that holds the clean latents of the chunk which begins there."""
    return f"clean.{first_latent_frame}"


_MEMORY = "memory."


def memory_part(first_head: int) -> str:
    """Name of the part of a snapshot that holds what is remembered by heads from this one on."""
    return f"{_MEMORY}{first_head}"


def find_memory(parts: Mapping[str, bytes]) -> list[tuple[int, bytes]]:
    """The parts of that kind by first head, in order."""
    return sorted((int(n.removeprefix(_MEMORY)), data) for n, data in parts.items() if n.startswith(_MEMORY))
