"""A render that a server keeps, as Python sees it."""

from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from reelray.cluster.client.answers import read_plan, read_progress, read_summary
from reelray.cluster.store.job import JobState
from reelray.cluster.video_facts import VideoFacts
from reelray.proto.errors import CancelledError, EngineError, InputError
from reelray.proto.events import Progress
from reelray.proto.request import RenderSummary, RequestId
from reelray.proto.v1 import renders_pb2 as wire
from reelray.proto.v1 import video_spec_pb2 as video_wire

STATES = {
    wire.RENDER_STATE_QUEUED: JobState.QUEUED,
    wire.RENDER_STATE_RUNNING: JobState.RUNNING,
    wire.RENDER_STATE_DONE: JobState.DONE,
    wire.RENDER_STATE_FAILED: JobState.FAILED,
    wire.RENDER_STATE_CANCELLED: JobState.CANCELLED,
}
FROM_STATES = {state: sent for sent, state in STATES.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptWebhook:
    """How far the word of a render's end has come.

    Args:
        url: Where it goes.
        state: ``waiting`` for the end, ``sending``, ``delivered`` or ``given_up``.
        tries: So far.
        next: When it is tried again, at the soonest; None where it is not.
        error: Why the last try failed; else empty.
    """

    url: str
    state: str
    tries: int
    next: datetime | None
    error: str

    def to_json(self) -> dict[str, object]:
        """Its facts for people and programs."""
        return {
            "url": self.url,
            "state": self.state,
            "tries": self.tries,
            "next": self.next and self.next.isoformat(),
            "error": self.error or None,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptRender:
    """How a render is. Times are the store's.

    Args:
        id: Names it in all calls.
        tenant: Whose it is.
        state: ``queued``, ``running``, ``done``, ``failed`` or ``cancelled``; the last three are ends.
        facts: What is made; None where another version of reelray took it on.
        priority: Higher ones are made first.
        created: When it was submitted.
        started: When it was begun first; None before.
        ended: None before.
        attempts: Times in a row that it was begun and nothing became durable.
        events: Number of its newest event.
        bytes: Bytes of its file that can be had; None where that was not asked.
        summary: What it took; None before it is done.
        error: Why it failed, was cancelled or was interrupted; else empty.
        webhook: Who is told of its end; None for nobody.
        deadline: When it should be complete; None without such a time.
    """

    id: str
    tenant: str
    state: JobState
    facts: VideoFacts | None
    priority: int
    created: datetime
    started: datetime | None
    ended: datetime | None
    attempts: int
    events: int
    bytes: int | None
    summary: RenderSummary | None
    error: str
    webhook: KeptWebhook | None = None
    deadline: datetime | None = None

    def to_json(self) -> dict[str, object]:
        """Its facts for people and programs."""
        video = self.facts
        shown = None if video is None else {
            "model": video.model,
            "prompt": video.prompt,
            "seed": video.seed,
            "width": video.width,
            "height": video.height,
            "frames": video.frames,
            "fps": float(video.fps),
            "steps": video.steps,
        }  # fmt: skip
        return {
            "id": self.id,
            "state": self.state.value,
            **(shown or {}),
            "priority": self.priority,
            "created": self.created.isoformat(),
            "started": self.started and self.started.isoformat(),
            "ended": self.ended and self.ended.isoformat(),
            "bytes": self.bytes,
            "error": self.error or None,
            **({} if self.webhook is None else {"webhook": self.webhook.to_json()}),
            **({} if self.deadline is None else {"deadline": self.deadline.isoformat()}),
        }

    def check_done(self) -> None:
        """Refuse a render that has ended otherwise than done.

        Raises:
            EngineError: It failed; trying the same again is up to the caller.
            CancelledError: Somebody cancelled it.
        """
        if self.state is JobState.FAILED:
            raise EngineError(f"render {self.id} failed: {self.error}", ids={"job": self.id})
        if self.state is JobState.CANCELLED:
            raise CancelledError(f"render {self.id} was cancelled", ids={"job": self.id})


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How a render waits.

    Args:
        position: Place among all that wait for its model, in the order in which they came.
        start: When it is predicted to begin; None where nobody can say.
    """

    position: int
    start: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptEvent:
    """Something that happened to a render; one of the last five is set.

    Args:
        number: Say it as `after` to go on behind it.
        at: When.
        state: It went into this state.
        committed: This unit is never made again.
        progress: A stage moved on.
        skipped_to: Events before were forgotten; the render as it was then.
        waits: It waits, and how.
    """

    number: int
    at: datetime
    state: JobState | None = None
    committed: int | None = None
    progress: Progress | None = None
    skipped_to: KeptRender | None = None
    waits: Standing | None = None

    @property
    def ends(self) -> bool:
        """Whether it is the last one."""
        return self.state is not None and self.state.ended


def read_render(render: wire.Render) -> KeptRender:
    """A render as the server says it is.

    Raises:
        EngineError: It is in a state that only newer versions know.
    """
    if render.state not in STATES:
        raise EngineError(f"render {render.id} is in state {render.state}, which this version does not know")
    planned = render.HasField("plan")
    summary = read_summary(render.summary, render.plan, RequestId(render.id)) if render.HasField("summary") else None
    return KeptRender(
        id=render.id,
        tenant=render.tenant,
        state=STATES[render.state],
        facts=read_plan(render.plan) if planned else None,
        priority=render.priority,
        created=_time(render.created),
        started=_time(render.started) if render.HasField("started") else None,
        ended=_time(render.ended) if render.HasField("ended") else None,
        attempts=render.attempts,
        events=render.events,
        bytes=render.bytes if render.HasField("bytes") else None,
        summary=summary,
        error=render.error,
        webhook=_read_webhook(render.webhook) if render.HasField("webhook") else None,
        deadline=_time(render.deadline) if render.HasField("deadline") else None,
    )


def _read_webhook(webhook: wire.Webhook) -> KeptWebhook:
    known = webhook.state in wire.Webhook.State.values()
    return KeptWebhook(
        url=webhook.url,
        state=wire.Webhook.State.Name(webhook.state).lower() if known else f"state {webhook.state}",
        tries=webhook.tries,
        next=_time(webhook.next) if webhook.HasField("next") else None,
        error=webhook.error,
    )


def read_state(name: str | None) -> JobState | None:
    """The state of a name.

    Raises:
        InputError: There is none of this name.
    """
    try:
        return None if name is None else JobState(name)
    except ValueError:
        raise InputError(f"state is {name!r}; it must be one of {', '.join(JobState)}") from None


def read_event(event: wire.WatchRenderEvent, render_id: str) -> KeptEvent:
    """An event as the server tells it."""
    kind = event.WhichOneof("event")
    return KeptEvent(
        number=event.number,
        at=_time(event.at),
        state=STATES.get(event.state) if kind == "state" else None,
        committed=event.committed if kind == "committed" else None,
        progress=read_progress(event.progress, RequestId(render_id)) if kind == "progress" else None,
        skipped_to=read_render(event.skipped_to) if kind == "skipped_to" else None,
        waits=read_standing(event.queued) if kind == "queued" else None,
    )


def read_standing(queued: video_wire.Queued) -> Standing:
    """How something waits."""
    start = _time(queued.predicted_start) if queued.HasField("predicted_start") else None
    return Standing(position=queued.position, start=start)


def _time(at: Timestamp) -> datetime:
    return at.ToDatetime(tzinfo=UTC)
