"""From a job in the store to the video that OpenAI's clients know."""

from contextlib import suppress
from fractions import Fraction
from typing import Any

from reelray.cluster.renders.attempt import PROGRESS
from reelray.cluster.renders.spec import RenderSpec
from reelray.cluster.store.events import Event
from reelray.cluster.store.job import Job, JobState
from reelray.proto.errors import InputError
from reelray.proto.events import Stage

STATUSES = {
    JobState.QUEUED: "queued",
    JobState.RUNNING: "in_progress",
    JobState.DONE: "completed",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "failed",
}
CODES = {JobState.FAILED: "render_failed", JobState.CANCELLED: "cancelled"}
LONGEST_ERROR = 1000
DENOISING_PERCENT = 90
"""Of the work of a clip; the rest decodes it."""


def video_of(job: Job, kept_s: float, progress: int = 0) -> dict[str, Any]:
    """Say how a video is.

    Args:
        job: From the store.
        kept_s: How long it is kept after its end.
        progress: Percent, where it is being made.
    """
    done = job.state is JobState.DONE
    ended_s = None if job.ended_ms is None else job.ended_ms // 1000
    return {
        "id": job.ref.id,
        "object": "video",
        "status": STATUSES[job.state],
        "progress": 100 if done else progress,
        "created_at": job.created_ms // 1000,
        "completed_at": ended_s if done else None,
        "expires_at": ended_s + int(kept_s) if done and ended_s is not None else None,
        "error": {"code": CODES[job.state], "message": job.error[:LONGEST_ERROR]} if job.state in CODES else None,
        "remixed_from_video_id": job.remixed_from or None,
        **_wish(job),
        **({} if job.deadline_ms is None else {"deadline": job.deadline_ms / 1000}),
        **_webhook(job),
    }


def _wish(job: Job) -> dict[str, Any]:
    """What is made; text without content where another version wrote it down."""
    with suppress(InputError):
        spec = RenderSpec.from_json(job.spec)
        request = spec.request
        return {
            "model": spec.model,
            "prompt": request.prompt,
            "seconds": in_seconds(request.frames, spec.fps),
            "size": f"{request.width}x{request.height}",
            "seed": request.seed,
            "frames": request.frames,
        }
    return {"model": "", "prompt": None, "seconds": "0", "size": "", "seed": None, "frames": None}


def _webhook(job: Job) -> dict[str, Any]:
    """How far the word of its end has come, where somebody wants to be told."""
    webhook = job.webhook
    if webhook is None:
        return {}
    state = webhook.end or ("sending" if job.state.ended else "waiting")
    return {"webhook": {"url": webhook.url, "state": state, "tries": webhook.tries, "error": webhook.error or None}}


def in_seconds(frames: int, fps: Fraction) -> str:
    """A length as clients read it."""
    return f"{float(frames / fps):.4f}".rstrip("0").rstrip(".")


def percent(job: Job, events: tuple[Event, ...]) -> int:
    """How far a video is by its newest events, 0 to 99."""
    with suppress(InputError):
        frames = RenderSpec.from_json(job.spec).request.frames
        told = [event.value for event in events if event.kind == PROGRESS]
        made = max((int(value.get("frames", 0)) for value in told), default=0)
        steps = [value for value in told if value.get("stage") == Stage.DENOISE.value and value.get("total")]
        denoised = steps[-1]["done"] / steps[-1]["total"] if steps else 0.0
        return min(99, max(100 * made // frames, int(DENOISING_PERCENT * denoised)))
    return 0
