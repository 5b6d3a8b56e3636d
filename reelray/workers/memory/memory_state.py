"""Regions as plain values that can be written down, and back."""

from dataclasses import fields, is_dataclass
from typing import Any

from reelray.workers.memory.regions import Frame, Mean, Regions

KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Frame, Mean)}
"""What regions are made of."""
_GIVEN = {"rule", "chunk"}  # the recipe says these


def write_regions(regions: Regions) -> dict[str, Any]:
    """What regions have become."""
    return {f.name: as_plain(getattr(regions, f.name)) for f in fields(regions) if f.name not in _GIVEN}


def read_regions(regions: Regions, state: dict[str, Any]) -> None:
    """Let fresh regions of the same recipe be what `write_regions` wrote."""
    for name, value in state.items():
        setattr(regions, name, from_plain(value))


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
        return KINDS[value["kind"]](**{name: from_plain(one) for name, one in value.items() if name != "kind"})
    return [from_plain(one) for one in value] if isinstance(value, list) else value
