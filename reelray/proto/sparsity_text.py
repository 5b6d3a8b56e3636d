"""A sparsity policy as text: what `--sparsity` and the API take, and what reports say."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from reelray.proto.errors import InputError
from reelray.proto.sparsity import FIXED, OPTIONS, SparseMethod, SparsityPolicy, TokenOrderKind

EXAMPLE = "sub_block,density=0.35"
_YES = {"yes": True, "no": False}


def parse_sparsity(text: str) -> SparsityPolicy:
    """Read ``METHOD[,NAME=VALUE...]``, such as ``sub_block,density=0.5/0.35,dense_share=0.25``.

    Names are the fields of `SparsityPolicy` and the options of the method; several densities are parted by ``/``.

    Raises:
        InputError: A word is unknown, or a value cannot be; the message names it and what may be.
    """
    method, *pairs = (part.strip() for part in text.strip().split(","))
    if method not in set(SparseMethod):
        raise InputError(f"sparsity is {text!r}; it begins with a method: {', '.join(SparseMethod)} ({EXAMPLE})")
    said: dict[str, Any] = {}
    options: dict[str, float] = {}
    for pair in pairs:
        name, equals, value = (part.strip() for part in pair.partition("="))
        known = (*_READERS, *OPTIONS.get(SparseMethod(method), {}))
        if not equals or name not in known:
            raise InputError(f"sparsity holds {pair!r}; {method} takes NAME=VALUE of {', '.join(known)}")
        if name in said or name in options:
            raise InputError(f"sparsity says {name} twice")
        try:
            if name in _READERS:
                said[name] = _READERS[name](value)
            else:
                options[name] = float(value)
        except ValueError:
            raise InputError(f"sparsity holds {pair!r}; {name} must be {_told(name)}") from None
    if "density" in said and method in FIXED:
        raise InputError(f"sparsity says density, and {method} is a fixed pattern that goes by its options")
    if "density" in said:
        said["densities"] = said.pop("density")
    try:
        return SparsityPolicy(method=SparseMethod(method), options=options, **said)
    except ValueError as error:
        raise InputError(f"sparsity {text!r}: {error}") from None


def write_sparsity(policy: SparsityPolicy) -> str:
    """What `parse_sparsity` reads, defaults left out."""
    parts = [policy.method.value]
    for field in fields(policy):
        value = getattr(policy, field.name)
        if field.name in {"method", "options"} or value == field.default:
            continue
        name = "density" if field.name == "densities" else field.name
        parts.append(f"{name}={_write(value)}")
    return ",".join([*parts, *(f"{name}={_write(float(value))}" for name, value in policy.options.items())])


def _write(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return "/".join(map(_write, value))
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)


def _read_yes(value: str) -> bool:
    if value not in _YES:
        raise ValueError(value)
    return _YES[value]


def _read_densities(value: str) -> tuple[float, ...]:
    return tuple(float(part) for part in value.split("/"))


_READERS: Mapping[str, Any] = {
    "density": _read_densities,
    "mass": float,
    "order": TokenOrderKind,
    "rows": int,
    "dense_share": float,
    "dense_layers": int,
    "first_frame": _read_yes,
    "neighbours": int,
    "compensate": _read_yes,
    "refresh": int,
    "least_recall": float,
    "forced": _read_yes,
}


def _told(name: str) -> str:
    if name == "order":
        return f"one of {', '.join(TokenOrderKind)}"
    if name == "density":
        return "numbers parted by /"
    kind = _READERS.get(name, float)
    return {_read_yes: "yes or no", int: "a whole number"}.get(kind, "a number")
