"""Names of the parts of what ranks write down of a request: commits and snapshots."""

from collections.abc import Iterable, Mapping

CHUNK_PART = "chunk"
"""Part of a commit: the chunk in work, with its solver."""
DECODE_PART = "decode"
"""Part of a commit: the decoder's state, and what waits for it on the ranks that hold it."""
_HISTORY, _ANEW = "history.", ".anew"


def history_part(number: int, *, anew: bool = False) -> str:
    """Name of the part of a commit that holds the input of forward `number` of those that were remembered.

    Args:
        number: Counted from the first chunk on.
        anew: Whether all was forgotten before it, so that none before it is needed.
    """
    return f"{_HISTORY}{number}{_ANEW if anew else ''}"


def find_history(parts: Mapping[str, bytes]) -> dict[int, bytes]:
    """The parts of that kind by number, in order; they are written once each."""
    return {number: parts[name] for number, name in _name_history(parts)}


def drop_forgotten(parts: Mapping[str, bytes]) -> dict[str, bytes]:
    """All parts but those of that kind that come before the last one that begins anew."""
    names = [name for _, name in _name_history(parts)]
    begin = max((place for place, name in enumerate(names) if name.endswith(_ANEW)), default=0)
    return {name: data for name, data in parts.items() if name not in names[:begin]}


def is_history(name: str) -> bool:
    """Whether a part is of that kind."""
    return name.startswith(_HISTORY)


def _name_history(parts: Iterable[str]) -> list[tuple[int, str]]:
    names = filter(is_history, parts)
    return sorted((int(name.removeprefix(_HISTORY).removesuffix(_ANEW)), name) for name in names)


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
