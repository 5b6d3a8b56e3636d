"""Jobs of streams that change while they run: what may grow, and what goes back."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from reelray.cluster.model_catalog import ModelEntry
from reelray.cluster.prompt_changes import check_cut, find_last_begin, latent_frame_at, read_cut, read_seconds
from reelray.cluster.render import RenderJob, check_text
from reelray.proto.errors import EndedError, InputError, LateError, PromptError
from reelray.proto.request import RenderRequest
from reelray.proto.session import Extend, Say
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


def read_prompt(job: RenderJob, prompt: object) -> str:
    """Check what a stream is to show from some time on.

    Args:
        job: The stream.
        prompt: What to show.

    Raises:
        PromptError: It is empty or too long.
    """
    text = check_text("prompt", prompt, job.model.facts)
    if not text:
        raise PromptError("the prompt is empty; say what the video shows from then on")
    check_tokens(text, job.model)
    return text


def read_saying(job: RenderJob, prompt: object, at: str | float | None, *, cut: bool) -> Say:
    """Check what is to be said to a stream, as far as that can be known without it.

    Args:
        job: The stream.
        prompt: What to show.
        at: Seconds of video after which it holds, perhaps with a mark of another scene; None means soon.
        cut: Whether another scene begins there.

    Raises:
        PromptError: The prompt is empty or too long.
        UnsupportedError: The model makes one scene of all prompts.
        LateError: No chunk begins then.
        InputError: It is no time.
    """
    facts, request = job.model.facts, job.request
    text, latent_frame = read_prompt(job, prompt), None
    if at is not None:
        at, marked = read_cut(at)
        cut = cut or marked
        latent_frame = latent_frame_at(read_seconds(at), job.fps, facts)
        last = find_last_begin(request.recipe, facts.latent_frames(request.frames, endless=request.recipe.is_endless))
        if latent_frame > last:
            raise LateError(
                f"the prompt comes after the end of the video: it has {float(request.frames / job.fps):.2f} s, and its "
                f"last chunk begins at {_seconds(job, last):.2f} s; extend it first"
            )
    if cut:
        check_cut(request.recipe)
    return Say(prompt=text, latent_frame=latent_frame, cut=cut)


def read_extension(job: RenderJob, seconds: object) -> Extend:
    """How much longer a stream becomes, in whole chunks.

    Raises:
        InputError: It is no time.
    """
    chunk = job.request.recipe.chunking.latent_frames or 1
    longer_s = Fraction(str(read_seconds(seconds, "what is to be added")))
    latent_frames = math.ceil(longer_s * job.fps / job.model.facts.temporal_stride)
    return Extend(latent_frames=-(-latent_frames // chunk) * chunk)


class Telling(Protocol):
    """A stream of which errors speak."""

    @property
    def job(self) -> RenderJob:
        """What is made."""
        ...

    @property
    def position(self) -> int:
        """The pixel frame that comes next."""
        ...


@contextmanager
def speaking_of(stream: Telling) -> Iterator[None]:
    """Say errors of the engine in seconds of video, without the names that the engine has for streams."""
    try:
        yield
    except EndedError as error:
        frames, fps = stream.job.request.frames, stream.job.fps
        raise EndedError(
            f"all {float(frames / fps):.2f} s of the video are made, and nothing can be said to it any more; "
            f"{frames - stream.position} frames of it can still be taken",
            ids=error.ids,
        ) from None
    except LateError as error:
        if "latent_frame" not in error.ids:
            raise
        next_s = _seconds(stream.job, int(error.ids["latent_frame"]))
        raise LateError(
            f"the prompt comes too late: what is shown then is being made already; it can hold from {next_s:.2f} s on",
            ids=error.ids,
        ) from None


def _seconds(job: RenderJob, latent_frame: int) -> float:
    return float((job.model.facts.frames(latent_frame) if latent_frame else 0) / job.fps)


def read_path(path: object) -> Path:
    """A file's name.

    Raises:
        InputError: It is none.
    """
    if not isinstance(path, str | Path) or not str(path).strip():
        raise InputError(f"path is {path!r}; it must be the name of a file")
    return Path(path)


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
