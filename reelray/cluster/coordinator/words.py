"""Messages as bytes: JSON that names its kind. Both ends are of one build; what neither knows ends the line."""

import json
from typing import Any

from reelray.cluster.coordinator import messages
from reelray.cluster.coordinator.messages import Decision, Report, Word
from reelray.cluster.plain_json import from_plain, to_plain
from reelray.proto.errors import InputError

METHOD = "/reelray.coordination/Connect"
HOUSE, SECRET = "house", "secret"
"""Names of what a house says before its first word."""
LARGEST_BYTES = 64 << 20
"""A house that comes again tells all that waits."""
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", LARGEST_BYTES),
    ("grpc.max_send_message_length", LARGEST_BYTES),
)
BEAT_S, SILENCE_S = 0.5, 3.0
"""A coordinator says something at least so often; after such a silence a house looks for another one."""
BEAT = b""
REPORTS = (
    *(messages.Joined, messages.EngineCame, messages.EngineWent, messages.Asked, messages.Ended, messages.MadeRoom),
    *(messages.Inquired, messages.Left, messages.Moved, messages.LookedFor, messages.HowStands),
)
DECISIONS = (messages.Waits, messages.Begin, messages.MakeRoom, messages.Turned, messages.Load)


def _by_name(kinds: tuple[type[Any], ...]) -> dict[str, type[Any]]:
    return {kind.__name__: kind for kind in kinds}


_REPORTS, _DECISIONS = _by_name(REPORTS), _by_name(DECISIONS)


def pack_report(report: Report) -> bytes:
    """A report as bytes."""
    return json.dumps([type(report).__name__, to_plain(report)]).encode()


def read_report(data: bytes) -> Report:
    """Read `pack_report`.

    Raises:
        InputError: It is something else.
    """
    name, body = _parts(data, 2)
    report: Report = _read(_REPORTS, name, body)
    return report


def pack_word(word: Word) -> bytes:
    """A decision and its fence as bytes."""
    return json.dumps([word.fence, type(word.decision).__name__, to_plain(word.decision)]).encode()


def read_word(data: bytes) -> Word:
    """Read `pack_word`.

    Raises:
        InputError: It is something else.
    """
    fence, name, body = _parts(data, 3)
    decision: Decision = _read(_DECISIONS, name, body)
    return Word(fence=fence, decision=decision)


def _parts(data: bytes, count: int) -> list[Any]:
    try:
        parts = json.loads(data)
    except ValueError:
        parts = None
    if not isinstance(parts, list) or len(parts) != count:
        raise InputError("the other end of the line says what nobody understands")
    return parts


def _read(kinds: dict[str, type[Any]], name: object, body: object) -> Any:
    try:
        return from_plain(kinds[str(name)], body)
    except (KeyError, ValueError, TypeError, ArithmeticError) as error:
        raise InputError(f"the other end of the line is of another build: {str(error)[:200]}") from None
