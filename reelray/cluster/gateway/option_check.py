"""What a call does with its options: nothing that was said is passed over in silence."""

from collections.abc import Collection
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from reelray.cluster.store.job import MOST_PRIORITY
from reelray.cluster.store.names import check_name
from reelray.proto.errors import InputError, UnsupportedError
from reelray.proto.v1 import request_options_pb2 as wire

LONGEST_KEY = 256
LAST_S = 253_402_300_799
"""The end of the year 9999."""


def seconds_until(deadline: Timestamp, now_s: float) -> float:
    """How long it is until a deadline; never less than 0.

    Args:
        deadline: From the wire.
        now_s: Seconds since 1970.

    Raises:
        InputError: It is no time.
    """
    if not 0 <= deadline.nanos < 10**9 or not 0 <= deadline.seconds <= LAST_S:
        raise InputError("options.deadline is no time: seconds since 1970, and 0 to 999999999 nanos")
    return max(0.0, deadline.seconds + deadline.nanos / 1e9 - now_s)


def check_options(options: wire.RequestOptions, acted_on: Collection[str], call: str) -> dict[str, str]:
    """Refuse options that would change nothing.

    Args:
        options: From the wire.
        acted_on: Names of those that the call acts on; `request_id`, `tenant` and exact quality always count.
        call: Its name, for the message.

    Returns:
        Ids for errors of this call.

    Raises:
        UnsupportedError: An option is not acted on; the message names it.
        InputError: A value is none that is allowed.
    """
    for field, value in options.ListFields():
        if field.name == "quality" and value == wire.QUALITY_EXACT:
            continue
        if field.name == "quality" and value not in wire.Quality.values():
            raise InputError(f"options.quality is {value}; it must be one of {', '.join(wire.Quality.keys())}")
        if field.name not in {"request_id", "tenant", *acted_on}:
            raise UnsupportedError(f"options.{field.name} is not acted on by {call} in this version; leave it out")
    unknown_fields: Any = UnknownFieldSet(options)  # its types lack the iterator
    if unknown := sorted({field.field_number for field in unknown_fields}):
        raise UnsupportedError(f"options has fields {unknown} that this version does not know; leave them out")
    if abs(options.priority) > MOST_PRIORITY:
        raise InputError(f"options.priority is {options.priority}: allowed are -{MOST_PRIORITY} to {MOST_PRIORITY}")
    if len(options.idempotency_key) > LONGEST_KEY:
        raise InputError(f"options.idempotency_key has {len(options.idempotency_key)} characters; allowed are 256")
    return {"caller_request": check_name("options.request_id", options.request_id)} if options.request_id else {}
