"""Dataclasses as JSON and back, by their annotations: nothing that a file says is run."""

import base64
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_PLAIN = {str, int, float, bool, type(None)}


def to_plain(value: Any) -> Any:
    """What JSON can hold: dataclasses by the names of their fields, bytes as base64."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    names = _names_of(kind)  # type: ignore[arg-type]  # types are hashable
    if names is not None:
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Enum):
        return value.value
    return [to_plain(one) for one in value] if isinstance(value, list | tuple) else value


def from_plain(kind: type[T], value: Any) -> T:
    """The object of a kind that `to_plain` was given.

    Raises:
        ValueError: It is none; the message names the field.
    """
    return _read(kind, value, kind.__name__)  # type: ignore[no-any-return]


def _read(kind: Any, value: Any, name: str) -> Any:
    kind = getattr(kind, "__supertype__", kind)  # of a NewType
    if get_origin(kind) in {Union, types.UnionType}:
        return _read_union(get_args(kind), value, name)
    if get_origin(kind) is tuple:
        return _read_tuple(get_args(kind), value, name)
    if get_origin(kind) is Mapping:
        return _read_mapping(get_args(kind)[1], value, name)
    if is_dataclass(kind):
        return _read_object(kind, value, name)
    return _read_one(kind, value, name)


def _read_one(kind: type[Any], value: Any, name: str) -> Any:
    if issubclass(kind, Enum):
        return kind(value)
    if kind is bytes and isinstance(value, str):
        return base64.b64decode(value, validate=True)
    if type(value) not in ({float, int} if kind is float else {kind}):
        raise ValueError(f"{name} is {value!r}, which is no {kind.__name__}")
    return kind(value)


def _read_union(kinds: Sequence[Any], value: Any, name: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    (kind,) = (kind for kind in kinds if kind is not type(None))
    return _read(kind, value, name)


def _read_tuple(kinds: Sequence[Any], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {value!r}, which is no list")  # noqa: TRY004  a file is wrong, not a caller
    if kinds[1:] == (Ellipsis,):
        kinds = [kinds[0]] * len(value)
    return tuple(_read(kind, one, f"{name}[{n}]") for n, (kind, one) in enumerate(zip(kinds, value, strict=True)))


def _read_mapping(kind: Any, value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {value!r}, which is no mapping")  # noqa: TRY004  as above
    return {str(key): _read(kind, one, f"{name}.{key}") for key, one in value.items()}


def _read_object(kind: Any, value: Any, name: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {value!r}, which is no {kind.__name__}")  # noqa: TRY004  as above
    hints = _hints_of(kind)
    if value.keys() != hints.keys():
        raise ValueError(f"{name} has the fields {sorted(value)}; {sorted(hints)} were expected")
    return kind(**{field: _read(hints[field], one, f"{name}.{field}") for field, one in value.items()})


@cache
def _names_of(kind: type[Any]) -> tuple[str, ...] | None:
    """Fields of a dataclass; None for what is none."""
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else None


@cache
def _hints_of(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)
