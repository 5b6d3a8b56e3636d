"""Changes a request while it runs, so that it is what it would be had everything been known at its beginning.

Only what has not begun is touched: every chunk keeps its frames, its noise and, once it has begun, its prompt. So the
bytes are those of the amended request, made from the start.
"""

from collections.abc import Sequence
from dataclasses import replace

from reelray.proto.errors import InputError, LateError, UnsupportedError
from reelray.proto.memory_rule import Commit
from reelray.proto.model_facts import ModelFacts
from reelray.proto.request import PromptChange, RenderRequest
from reelray.proto.session import Extend, Say
from reelray.scheduler.chunks import Span


def say(request: RenderRequest, order: Say, chunks: Sequence[Span], begun: int) -> tuple[RenderRequest, int]:
    """The request with another prompt, which takes the place of one that was to hold from the same chunk.

    Args:
        request: As it was.
        order: What is said.
        chunks: Of the video.
        begun: How many have begun.

    Returns:
        The request, and the chunk from which the prompt holds.

    Raises:
        LateError: That chunk has begun, or there is none.
        UnsupportedError: The recipe cannot begin another scene.
    """
    ids = {"request": str(request.request_id)}
    memory, wanted = request.recipe.memory, order.latent_frame
    if order.cut and (memory is None or not memory.knows_scenes):
        raise UnsupportedError(f"model '{request.recipe.name}' makes one scene of all prompts", ids=ids)
    chunk = begun if wanted is None else _chunk_from(chunks, wanted)
    if begun >= len(chunks):
        raise LateError("the prompt comes too late: the last chunk of the video has begun; extend it first", ids=ids)
    if chunk >= len(chunks):
        raise LateError("the prompt comes after the end of the video: no chunk begins then; extend it first", ids=ids)
    if chunk < begun:
        raise LateError(
            "the prompt comes too late: the chunk has begun that shows it; it can hold from the next one on",
            ids=ids | {"latent_frame": str(chunks[begun].first)},
        )
    kept = [change for change in request.changes if _chunk_from(chunks, change.latent_frame) != chunk]
    if chunk == 0:
        return replace(request, prompt=order.prompt, changes=tuple(kept)), 0
    kept.append(PromptChange(latent_frame=chunks[chunk].first, prompt=order.prompt, cut=order.cut))
    return replace(request, changes=tuple(sorted(kept, key=lambda change: change.latent_frame))), chunk


def extend(
    request: RenderRequest, order: Extend, facts: ModelFacts, chunks: Sequence[Span], begun: int
) -> RenderRequest:
    """The request with more frames.

    Raises:
        InputError: Its last chunk has begun, and more cannot follow it.
        SizeError: The model cannot place so many frames.
        UnsupportedError: The model makes whole clips, or its chunks in rounds.
    """
    recipe, last = request.recipe, chunks[-1]
    ids = {"request": str(request.request_id)}
    _check_rounds(request)
    if recipe.chunking.latent_frames is None:
        raise UnsupportedError(f"model '{recipe.name}' makes whole clips, which cannot be extended", ids=ids)
    size = recipe.chunking.latent_frames
    if len(chunks) == 1:
        size = recipe.chunking.first_latent_frames or size
    if begun == len(chunks) and last.length < size:
        raise InputError("the last chunk of the video has begun, and it is shorter than the others", ids=ids)
    forgets = recipe.memory is not None and recipe.memory.commit is not Commit.CLEAN and not request.live
    if begun == len(chunks) and recipe.chunking.stagger is not None:
        raise InputError("the last chunk of the video has begun, and those in flight with it count on that", ids=ids)
    if begun == len(chunks) and forgets:
        raise InputError("the last chunk of the video has begun, and it will not be remembered", ids=ids)
    frames = facts.frames(last.end + order.latent_frames)
    facts.latent_frames(frames, endless=recipe.is_endless)
    return replace(request, frames=frames)


def stop(request: RenderRequest, facts: ModelFacts, chunks: Sequence[Span], begun: int) -> RenderRequest:
    """The request with the chunks that have begun, the first one at least, and the prompts that they go by.

    Raises:
        UnsupportedError: The model makes its chunks in rounds.
    """
    _check_rounds(request)
    last = chunks[max(1, begun) - 1]
    shown = tuple(change for change in request.changes if change.latent_frame <= last.first)
    return replace(request, frames=facts.frames(last.end), changes=shown)


def go_back(request: RenderRequest, chunks: Sequence[Span], chunk: int) -> RenderRequest:
    """The request without prompts that hold from later chunks than this one."""
    kept = tuple(change for change in request.changes if change.latent_frame <= chunks[chunk].first)
    return replace(request, changes=kept)


def _check_rounds(request: RenderRequest) -> None:
    if request.recipe.chunking.round_latent_frames is not None:
        raise UnsupportedError(
            f"model '{request.recipe.name}' makes its chunks in rounds that its length decides; it cannot change",
            ids={"request": str(request.request_id)},
        )


def _chunk_from(chunks: Sequence[Span], latent_frame: int) -> int:
    """The first chunk that begins at a latent frame or later."""
    return sum(chunk.first < latent_frame for chunk in chunks)
