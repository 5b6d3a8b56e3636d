"""What a memory holds as plain values and tensors that can be written down, and back.

Shape suffixes: S tokens, N heads, D head width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from reelray.proto.bank_rule import BankRule
from reelray.workers.memory.bank import Bank
from reelray.workers.memory.entries import Banked, Entry, Frame, Mean
from reelray.workers.memory.pool import PagePool
from reelray.workers.memory.regions import Regions

KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Frame, Mean, Banked, Bank, BankRule)}
"""What regions are made of."""
_GIVEN = {"rule", "chunk", "first", "layers"}  # recipe and model say these


def write_regions(regions: Regions) -> dict[str, Any]:
    """What regions have become."""
    return {f.name: as_plain(getattr(regions, f.name)) for f in fields(regions) if f.name not in _GIVEN}


def read_regions(regions: Regions, state: dict[str, Any]) -> None:
    """Let fresh regions of the same recipe be what `write_regions` wrote."""
    for name, value in state.items():
        setattr(regions, name, from_plain(value))


def write_pages(pool: PagePool, held: Mapping[Entry, Sequence[int]], places: int) -> dict[str, Any]:
    """Entries by name, and their keys and values, so that ranks which share the heads otherwise can take them.

    Of pages in 8 bits it is their bytes, because to make them of values again would change them.

    Args:
        pool: Where they lie.
        held: Pages of each entry.
        places: Tokens of a latent frame.
    """
    entries, layers, pages = list(held), [], None
    if not pool.is_exact:
        pages = pool.show([*held.values()])
    elif entries:
        read = pool.reader([held[entry] for entry in entries], places)
        layers = [[part_SND.cpu() for part_SND in read(layer)] for layer in range(pool.shape.layers)]
    return {"entries": as_plain(entries), "layers": layers, "pages": pages}


def read_pages(pool: PagePool, held: dict[Entry, tuple[int, ...]], places: int, state: Mapping[str, Any]) -> None:
    """Take what `write_pages` wrote into pages that are taken for it.

    Args:
        pool: Where they are to lie.
        held: Is filled.
        places: Tokens of a latent frame.
        state: What was written, with the heads that are here.

    Raises:
        UnsupportedError: It has bytes of pages of other heads.
    """
    entries = take_entries(pool, held, places, state)
    if state["pages"] is not None:
        pool.fill([*held.values()], state["pages"])
    elif entries:
        write = pool.writer([held[entry] for entry in entries], places)
        for layer, (keys_SND, values_SND) in enumerate(state["layers"]):
            write(layer, keys_SND.to(pool.device), values_SND.to(pool.device))


def take_entries(
    pool: PagePool, held: dict[Entry, tuple[int, ...]], places: int, state: Mapping[str, Any]
) -> list[Entry]:
    """Take pages for the entries that a state names; what they hold is to come."""
    entries: list[Entry] = from_plain(state["entries"])
    for entry in entries:
        held[entry] = pool.take(pool.pages_for(places))
    return entries


def as_plain(value: Any) -> Any:
    """Lists, dictionaries and plain values; an object of a known kind is a dictionary with its name."""
    if is_dataclass(value) and type(value).__name__ in KINDS:
        return {"kind": type(value).__name__, **{f.name: as_plain(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, list | tuple):
        return [as_plain(one) for one in value]
    return value


def from_plain(value: Any) -> Any:
    """What `as_plain` was given."""
    if isinstance(value, dict):
        kind = KINDS[value["kind"]]
        parts = {name: from_plain(one) for name, one in value.items() if name != "kind"}
        if kind is Banked:  # it names an entry, so it is hashed
            parts["frames"] = tuple(parts["frames"])
        return kind(**parts)
    return [from_plain(one) for one in value] if isinstance(value, list) else value
