"""Reads traces: a JSON object per line, a request or a fault.

{"at": 0.0, "frames": 81, "tenant": "film", "class": "batch", "slo": 6}
{"at": 1.5, "kind": "stream", "class": "interactive", "frames": 161, "within": 4, "session": "s1"}
{"at": 60, "event": "down", "engine": 3}
{"at": 90, "event": "up", "engine": 3}
"""

import json
from collections.abc import Iterable
from typing import Any

from reelray.proto.errors import InputError
from reelray.scheduler.fleet.ticket import DEFAULT_TENANT, Kind, Service, SessionId, TenantId
from reelray.scheduler.simulation.arrival import Arrival, Fault, Happening, Shape

REQUEST_FIELDS = {
    "at": float,
    "model": str,
    "size": str,
    "frames": int,
    "kind": str,
    "class": str,
    "tenant": str,
    "priority": int,
    "within": float,
    "slo": float,
    "session": str,
}
MOST = 10**9
"""Of any number: 30 years, in seconds; times beyond lose their fractions."""
FAULT_FIELDS = {"at": float, "event": str, "engine": int}


def read_trace(lines: Iterable[str]) -> list[Happening]:
    """Read a trace; what happens is sorted by time.

    Raises:
        InputError: A line is not right; the message has its number.
    """
    found = [_read_line(line, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not any(isinstance(happening, Arrival) for happening in found):
        raise InputError("the trace has no requests")
    return sorted(found, key=lambda happening: happening.at_s)


def _read_line(line: str, number: int) -> Happening:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"line {number} of the trace is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise InputError(f"line {number} of the trace is not an object")
    try:
        return _fault(_check(row, FAULT_FIELDS)) if "event" in row else _request(_check(row, REQUEST_FIELDS))
    except ValueError as error:
        raise InputError(f"line {number} of the trace: {error}") from None


def _check(row: dict[str, Any], fields: dict[str, type]) -> dict[str, Any]:
    unknown = sorted(set(row) - set(fields))
    if unknown:
        raise ValueError(f"{', '.join(unknown)} is not known; fields are {', '.join(fields)}")
    if "at" not in row:
        raise ValueError("at is missing")
    for name, value in row.items():
        kinds = (int, float) if fields[name] is float else fields[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}; a {fields[name].__name__} was expected")  # noqa: TRY004  one kind
        if isinstance(value, int | float) and not (-MOST if name == "priority" else 0) <= value <= MOST:
            raise ValueError(f"{name} is {value:.4g}; it must be no more than {MOST:.0e}, and only priority negative")
    return row


def _fault(row: dict[str, Any]) -> Fault:
    if row["event"] not in {"down", "up"}:
        raise ValueError(f"event is {row['event']!r}; it must be down or up")
    return Fault(at_s=row["at"], engine=row.get("engine", 0), is_up=row["event"] == "up")


def _request(row: dict[str, Any]) -> Arrival:
    shape = Shape(
        model=row.get("model", ""),
        size=row.get("size", ""),
        frames=row.get("frames", 81),
        kind=Kind(row.get("kind", "render")),
    )
    return Arrival(
        at_s=row["at"],
        shape=shape,
        tenant=TenantId(row.get("tenant", DEFAULT_TENANT)),
        service=Service(row.get("class", "batch")),
        priority=row.get("priority", 0),
        within_s=row.get("within"),
        slo=row.get("slo"),
        session=SessionId(row["session"]) if "session" in row else None,
    )
