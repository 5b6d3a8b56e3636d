"""Jobs of streams that change while they run: what may grow, and what goes back."""

import math
from dataclasses import replace
from fractions import Fraction

from reelray.cluster.model_catalog import ModelEntry
from reelray.cluster.render import RenderJob
from reelray.proto.errors import InputError, PromptError
from reelray.proto.request import RenderRequest
from reelray.proto.snapshot import Snapshot, SnapshotKind
from reelray.workers.models.registry import count_tokens


def as_live(job: RenderJob, *, rounds: bool) -> RenderJob:
    """The same job, open to what is said while it runs.

    Args:
        job: What to make.
        rounds: Whether to make its last chunk a whole one, which more can follow; where the model can place that.
    """
    request, facts = job.request, job.model.facts
    recipe = request.recipe
    size = recipe.chunking.latent_frames
    latent_frames = facts.latent_frames(request.frames, endless=recipe.is_endless)
    if rounds and size is not None:
        first = recipe.chunking.first_latent_frames or size
        whole = first + -(-max(0, latent_frames - first) // size) * size
        if recipe.is_endless or facts.positions is None or whole <= facts.positions:
            latent_frames = whole
    return replace(job, request=replace(request, frames=facts.frames(latent_frames), live=True))


def rewind_request(job: RenderJob, seconds: float, *, before: int) -> tuple[RenderRequest, Snapshot]:
    """What a stream is that goes back to the last beginning of a chunk at a time or before.

    Args:
        job: The stream.
        seconds: Of video.
        before: Pixel frame that comes next.

    Returns:
        The request without prompts that came later, and a snapshot that has nothing but that position.

    Raises:
        InputError: The stream has not come so far.
    """
    request, facts = job.request, job.model.facts
    if seconds * job.fps > before:
        raise InputError(f"{seconds:g} s has not been shown yet; the stream is at {float(before / job.fps):.2f} s")
    size = request.recipe.chunking.latent_frames or 1
    first_size = request.recipe.chunking.first_latent_frames or size
    shown = math.floor(Fraction(str(seconds)) * job.fps)
    latent_frame = 0 if shown == 0 else (shown - 1) // facts.temporal_stride + 1
    chunk = 0 if latent_frame < first_size else 1 + (latent_frame - first_size) // size
    first = 0 if chunk == 0 else first_size + (chunk - 1) * size
    kept = tuple(change for change in request.changes if change.latent_frame <= first)
    request = replace(request, changes=kept)
    frame = facts.frames(first) if first else 0
    return request, Snapshot(
        kind=SnapshotKind.REPLAY,
        digest="",
        request=request,
        windows=0,
        decoded=0,
        chunks_begun=chunk,
        frame=frame,
        parts={},
    )


def check_tokens(prompt: str, model: ModelEntry) -> None:
    """Refuse a prompt that the text encoder would refuse, which would end a stream that runs.

    Raises:
        PromptError: It has too many tokens.
    """
    most = model.facts.text_tokens
    if len(prompt.encode()) < most:  # no token is shorter than a byte, and one is the end
        return
    tokens = count_tokens(model.path, prompt)
    if tokens > most:
        raise PromptError(f"the prompt has {tokens} tokens and the model reads at most {most}; shorten it")


def read_kind(kind: str) -> SnapshotKind:
    """Which kind of snapshot a word means.

    Raises:
        InputError: None.
    """
    try:
        return SnapshotKind(kind)
    except ValueError:
        raise InputError(f"kind is {kind!r}; it must be one of {', '.join(SnapshotKind)}") from None
