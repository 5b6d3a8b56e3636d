"""From a job in the store to what goes over the wire."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from reelray.cluster.gateway.video_answers import planned, sparsity_use
from reelray.cluster.plain_json import from_plain
from reelray.cluster.renders.attempt import PROGRESS
from reelray.cluster.renders.growing_media import result_video
from reelray.cluster.renders.spec import MediaForm, RenderSpec
from reelray.cluster.renders.submission import Submission
from reelray.cluster.store.events import Event
from reelray.cluster.store.job import Job, JobState, JobWebhook
from reelray.cluster.store.names import JobRef
from reelray.cluster.wire import STAGES
from reelray.proto.errors import InputError
from reelray.proto.sparsity import SparsityUse
from reelray.proto.v1 import renders_pb2, video_spec_pb2

STATES = {
    JobState.QUEUED: renders_pb2.RENDER_STATE_QUEUED,
    JobState.RUNNING: renders_pb2.RENDER_STATE_RUNNING,
    JobState.DONE: renders_pb2.RENDER_STATE_DONE,
    JobState.FAILED: renders_pb2.RENDER_STATE_FAILED,
    JobState.CANCELLED: renders_pb2.RENDER_STATE_CANCELLED,
}
FROM_STATES = {sent: state for state, sent in STATES.items()}
MEDIA = {MediaForm.MP4: video_spec_pb2.MEDIA_MP4}
FACTS = {
    "frames": int,
    "forwards": int,
    "device": str,
    "dtype": str,
    "layout": str,
    "ranks": int,
    "peak_bytes": int,
    "decode_ranks": int,
    "weights": str,
    "encoder": str,
}
"""What a worker's result says of its work, and of what kind it is."""
LONGEST_ERROR = 1000


WEBHOOK_ENDS = {"delivered": renders_pb2.Webhook.DELIVERED, "given_up": renders_pb2.Webhook.GIVEN_UP}


def queued_render(
    ref: JobRef, created_ms: int, submission: Submission, plan: video_spec_pb2.VideoPlan
) -> renders_pb2.Render:
    """A render that was taken on just now; the same as `render_of` without asking the store for it."""
    return renders_pb2.Render(
        id=ref.id,
        tenant=ref.tenant,
        state=renders_pb2.RENDER_STATE_QUEUED,
        plan=plan,
        media=video_spec_pb2.MEDIA_MP4,
        priority=submission.priority,
        created=at_ms(created_ms),
        events=1,
        bytes=0,
        webhook=_webhook(JobWebhook(url=submission.webhook), ended=False) if submission.webhook else None,
        deadline=None if submission.deadline_ms is None else at_ms(submission.deadline_ms),
    )


def render_of(job: Job, size_bytes: int | None = None) -> renders_pb2.Render:
    """Say how a render is.

    Args:
        job: From the store.
        size_bytes: Bytes of its file that are there; None where that was not looked up.
    """
    render = renders_pb2.Render(
        id=job.ref.id,
        tenant=job.ref.tenant,
        state=STATES[job.state],
        priority=job.priority,
        created=at_ms(job.created_ms),
        started=None if job.started_ms is None else at_ms(job.started_ms),
        ended=None if job.ended_ms is None else at_ms(job.ended_ms),
        attempts=max(0, job.attempts),
        events=job.events,
        bytes=size_bytes,
        error=job.error[:LONGEST_ERROR],
        webhook=None if job.webhook is None else _webhook(job.webhook, ended=job.state.ended),
        remixed_from=job.remixed_from,
        deadline=None if job.deadline_ms is None else at_ms(job.deadline_ms),
    )
    if job.result is not None:
        render.summary.CopyFrom(_summary(job.result))
    with suppress(InputError):  # another version has written it
        if size_bytes is None and (video := result_video(job)) is not None:
            render.bytes = video.size_bytes
        spec = RenderSpec.from_json(job.spec)
        render.plan.CopyFrom(planned(spec.request, spec.model, spec.digest, spec.fps))
        render.media = MEDIA[spec.media]
    return render


def event_of(event: Event) -> renders_pb2.WatchRenderEvent | None:
    """Say what happened; None for what only newer versions know."""
    told = renders_pb2.WatchRenderEvent(number=event.number, at=at_ms(event.at_ms))
    if event.kind == "state":
        told.state = STATES[JobState(event.data)]
    elif event.kind == "commit":
        told.committed = int(event.data)
    elif event.kind == PROGRESS and event.value.get("stage") in STAGES:
        value = event.value
        told.progress.CopyFrom(
            video_spec_pb2.StageProgress(stage=STAGES[value["stage"]], done=value["done"], total=value["total"])
        )
    else:
        return None
    return told


def _webhook(webhook: JobWebhook, *, ended: bool) -> renders_pb2.Webhook:
    waiting = renders_pb2.Webhook.SENDING if ended else renders_pb2.Webhook.WAITING
    return renders_pb2.Webhook(
        url=webhook.url,
        state=WEBHOOK_ENDS.get(webhook.end, waiting),
        tries=webhook.tries,
        next=None if webhook.next_ms is None else at_ms(webhook.next_ms),
        error=webhook.error,
    )


def _summary(result: Mapping[str, Any]) -> video_spec_pb2.VideoSummary:
    """What it took, as far as the worker said it in words that are known here."""
    known = {name: result[name] for name in FACTS if isinstance(result.get(name), FACTS[name])}
    stage_s = result.get("stage_s")
    seconds = {str(name): float(s) for name, s in stage_s.items()} if isinstance(stage_s, dict) else {}
    summary = video_spec_pb2.VideoSummary(**known, stage_seconds=seconds)
    with suppress(ValueError):  # of another version
        if "sparsity" in result:
            summary.sparsity.CopyFrom(sparsity_use(from_plain(SparsityUse, result["sparsity"])))
    return summary


def at_ms(milliseconds: int) -> Timestamp:
    """A time of the store's clock."""
    at = Timestamp()
    at.FromMilliseconds(milliseconds)
    return at
