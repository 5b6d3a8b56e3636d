"""What a job is, as submitted and as stored."""

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reelray.cluster.store.names import JobRef, check_name, digest_of
from reelray.proto.errors import InputError

MOST_PRIORITY = 100
_LARGEST_BYTES = 1 << 20


class JobState(enum.StrEnum):
    """Where a job is; the last three are ends."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing can change any more."""
        return self in {JobState.DONE, JobState.FAILED, JobState.CANCELLED}


@dataclass(frozen=True, kw_only=True, slots=True)
class NewJob:
    """A wish.

    Args:
        tenant: Whose job.
        spec: What to do, as JSON; it never changes.
        key: The client's key, any text: the same key and spec give the same job as long as that is kept.
        queue: Which workers may claim it, such as the model's name.
        priority: -100 to 100; higher ones are claimed first.
        max_attempts: How often it may be claimed in a row without a commit.
        retention_s: How long it is kept after its end.
        webhook: Who is told of its end; empty for nobody. It is part of the wish.
        remixed_from: Id of the job whose wish it repeats with a change; empty for none. It is part of the wish.
        deadline_ms: When it should have ended, in milliseconds since 1970; None without one. It is part of the wish.
        id: Its id; None chooses one.
    """

    tenant: str
    spec: Mapping[str, Any]
    key: str | None = None
    queue: str = "default"
    priority: int = 0
    max_attempts: int = 5
    retention_s: float = 7 * 86_400.0
    webhook: str = ""
    remixed_from: str = ""
    deadline_ms: int | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        check_name("tenant", self.tenant)
        check_name("queue", self.queue)
        if not -MOST_PRIORITY <= self.priority <= MOST_PRIORITY:
            raise InputError(f"priority is {self.priority}: allowed are {-MOST_PRIORITY} to {MOST_PRIORITY}")
        if self.max_attempts < 1 or not 0 < self.retention_s <= 10 * 366 * 86_400:
            raise InputError("max_attempts must be 1 or more, retention_s above 0 and up to ten years")

    @property
    def key_hash(self) -> str:
        """Hash that stands for the client's key; empty where there is none."""
        return "" if self.key is None else digest_of(self.key)

    @property
    def beside(self) -> bytes:
        """What is part of the wish and not of the spec; nothing for most."""
        said: dict[str, Any] = {"webhook": self.webhook, "remixed_from": self.remixed_from}
        if self.deadline_ms is not None:
            said["deadline_ms"] = self.deadline_ms
        return json_bytes("the job", said) if any(said.values()) else b""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobWebhook:
    """How far the word of a job's end has come.

    Args:
        url: Where it goes.
        tries: So far.
        next_ms: When it is tried again, at the soonest; None where it is not.
        end: `delivered` or `given_up`; empty before.
        error: Why the last try failed; else empty.
    """

    url: str
    tries: int = 0
    next_ms: int | None = None
    end: str = ""
    error: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job as the store knows it now. Times are the server's, in milliseconds since 1970.

    Args:
        ref: Which job.
        state: Where it is.
        spec: What to do.
        digest: Hash of the spec's JSON, and of what else belongs to the wish.
        queue: Which workers may claim it.
        priority: Higher ones are claimed first.
        fence: Number of the newest lease, larger than all before it; 0 where it was never claimed.
        claims: How often it was claimed.
        attempts: Claims in a row without a commit.
        max_attempts: Limit of those.
        owner: Who holds the lease, or empty.
        created_ms: When it was submitted.
        started_ms: When it was first claimed.
        ended_ms: When it ended.
        events: Number of its newest event.
        result: What came out, where it is done.
        error: Why it failed, was cancelled, or was given back the last time; else empty.
        webhook: Who is told of its end; None for nobody.
        remixed_from: As submitted.
        deadline_ms: As submitted.
    """

    ref: JobRef
    state: JobState
    spec: dict[str, Any]
    digest: str
    queue: str
    priority: int
    fence: int
    claims: int
    attempts: int
    max_attempts: int
    owner: str
    created_ms: int
    started_ms: int | None
    ended_ms: int | None
    events: int
    result: dict[str, Any] | None
    error: str
    webhook: JobWebhook | None = None
    remixed_from: str = ""
    deadline_ms: int | None = None


def json_bytes(what: str, value: Mapping[str, Any], *, largest: int = _LARGEST_BYTES) -> bytes:
    """Canonical JSON: equal values have equal bytes.

    Args:
        what: What it is, for the message.
        value: Strings, finite numbers, booleans, None, lists and mappings of them.
        largest: Most bytes.

    Raises:
        InputError: It has something else, or is too large.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{what} is not JSON: {error}") from None
    if len(text) > largest:
        raise InputError(f"{what} has {len(text)} bytes: allowed are {largest}")
    return text


def job_from(ref: JobRef, pairs: Sequence[bytes]) -> Job:
    """Read a job's hash.

    Args:
        ref: Which job.
        pairs: Names and values in turn.
    """
    row = dict(zip((name.decode() for name in pairs[::2]), pairs[1::2], strict=True))
    return Job(
        ref=ref,
        state=JobState(row["state"].decode()),
        spec=json.loads(row["spec"]),
        digest=row["digest"].decode(),
        queue=row["queue"].decode(),
        priority=int(row["priority"]),
        fence=int(row["fence"]),
        claims=int(row.get("claims", 0)),
        attempts=int(row["attempts"]),
        max_attempts=int(row["max_attempts"]),
        owner=row.get("owner", b"").decode(),
        created_ms=int(row["created_ms"]),
        started_ms=int(row["started_ms"]) if "started_ms" in row else None,
        ended_ms=int(row["ended_ms"]) if "ended_ms" in row else None,
        events=int(row["events"]),
        result=json.loads(row["result"]) if "result" in row else None,
        error=row.get("error", b"").decode(),
        webhook=_webhook_from(row) if "webhook" in row else None,
        remixed_from=row.get("remixed_from", b"").decode(),
        deadline_ms=int(row["deadline_ms"]) if "deadline_ms" in row else None,
    )


def _webhook_from(row: Mapping[str, bytes]) -> JobWebhook:
    return JobWebhook(
        url=row["webhook"].decode(),
        tries=int(row.get("hook_tries", 0)),
        next_ms=int(row["hook_next_ms"]) if row.get("hook_next_ms") else None,
        end=row.get("hook_end", b"").decode(),
        error=row.get("hook_error", b"").decode(),
    )
