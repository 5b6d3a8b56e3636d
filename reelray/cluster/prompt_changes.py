"""Prompts that follow each other in one video: from times in seconds to latent frames."""

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from numbers import Real
from typing import TypeAlias

from reelray.proto.errors import InputError, PromptError, UnsupportedError
from reelray.proto.model_facts import ModelFacts
from reelray.proto.recipe import Recipe
from reelray.proto.request import PromptChange

Times: TypeAlias = Sequence[tuple[str | float, str]]
"""Seconds of video, as a number or as text such as ``6``, ``6.5s`` or ``1:30``, and the prompt from then on.

A text that ends in ``,cut`` begins another scene there.
"""
_CUT = ",cut"
_MEANT = {False: "seconds greater than 0", True: "seconds from the beginning on"}
_SECONDS = re.compile(r"(?:(\d+):)?(\d+(?:\.\d*)?|\.\d+)s?")


def choose_changes(
    wanted: Times | None, recipe: Recipe, facts: ModelFacts, *, frames: int, fps: Fraction, check: Callable[[str], str]
) -> tuple[PromptChange, ...]:
    """Check later prompts and find the latent frames they hold from.

    Args:
        wanted: What was asked for.
        recipe: Of the model.
        facts: Of the model.
        frames: Pixel frames of the video.
        fps: Frames per second of the video.
        check: Refuses texts that no prompt may be, and returns the others.

    Raises:
        InputError: A time is none, or not after the one before, or so late that no chunk begins afterwards.
        PromptError: A prompt is empty.
        UnsupportedError: The model makes whole clips, or cannot begin another scene.
    """
    if not wanted:
        return ()
    total = facts.latent_frames(frames, endless=recipe.is_endless)
    if recipe.chunking.text_frames is None:
        raise UnsupportedError(
            f"model '{recipe.name}' makes whole clips of one prompt; prompts that follow each other need a model that "
            "makes its video chunk by chunk"
        )
    first, chunk = recipe.chunking.text_frames
    last_begin = find_last_begin(recipe, total)
    changes: list[PromptChange] = []

    def next_chunk(latent_frame: int) -> int:
        return max(0, math.ceil((latent_frame - first) / chunk))

    for marked, text in wanted:
        time, cut = read_cut(marked)
        if cut:
            check_cut(recipe)
        seconds, prompt = read_seconds(time), check(text)
        if not prompt:
            raise PromptError(f"the prompt at {seconds:g} s is empty; say what the video shows from then on")
        latent_frame = latent_frame_at(seconds, fps, facts)
        if latent_frame > last_begin:
            latest = Fraction(facts.frames(last_begin) if last_begin else 0) / fps
            raise InputError(
                f"a prompt is to hold from {seconds:g} s on, and no chunk of this video begins then: it has "
                f"{float(frames / fps):.1f} s, and its last chunk begins at {float(latest):.1f} s"
            )
        if changes and latent_frame <= changes[-1].latent_frame:
            raise InputError(f"a prompt is to hold from {seconds:g} s on, which is not after the one before it")
        if changes and next_chunk(latent_frame) == next_chunk(changes[-1].latent_frame):
            raise InputError(
                f"a prompt is to hold from {seconds:g} s on, and no chunk begins between it and the one before it, "
                "which nobody would see"
            )
        changes.append(PromptChange(latent_frame=latent_frame, prompt=prompt, cut=cut))
    return tuple(changes)


def latent_frame_at(seconds: float, fps: Fraction, facts: ModelFacts) -> int:
    """The first latent frame that lies wholly after so many seconds of video."""
    frame = math.ceil(Fraction(str(seconds)) * fps)
    return math.ceil(max(0, frame - 1) / facts.temporal_stride) + 1


def find_last_begin(recipe: Recipe, latent_frames: int) -> int:
    """The latent frame where the last chunk begins that may go by a prompt of its own; for models that make chunks."""
    assert recipe.chunking.text_frames is not None, "whole clips go by one prompt"
    first, chunk = recipe.chunking.text_frames
    return 0 if latent_frames <= first else first + (latent_frames - first - 1) // chunk * chunk


def read_cut(time: str | float) -> tuple[str | float, bool]:
    """A time without the mark of another scene, and whether it had one."""
    if not isinstance(time, str) or not time.strip().endswith(_CUT):
        return time, False
    return time.strip().removesuffix(_CUT), True


def check_cut(recipe: Recipe) -> None:
    """Refuse another scene where the recipe has no place for it.

    Raises:
        UnsupportedError: It has none.
    """
    if recipe.memory is None or not recipe.memory.knows_scenes:
        raise UnsupportedError(
            f"model '{recipe.name}' makes one scene of all prompts; leave out the cut, or take a model whose recipe "
            "has memory.cut_position or a pinned sink, such as infinity-rope-1.3b"
        )


def read_seconds(time: object, what: str = "the time of a prompt", *, zero: bool = False) -> float:
    """Read ``6``, ``6.5s`` or ``1:30``.

    Args:
        time: What was written.
        what: What it is to be, for the error.
        zero: Whether the beginning counts too.

    Raises:
        InputError: It is something else, or not after the beginning.
    """
    seconds = math.nan
    if not isinstance(time, bool) and isinstance(time, Real):
        seconds = float(time)
    elif isinstance(time, str) and (found := _SECONDS.fullmatch(time.strip())):
        seconds = 60 * int(found[1] or 0) + float(found[2])
    if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not zero):
        raise InputError(f"{what} is {time!r}; write {_MEANT[zero]}, such as 6, 6.5s or 1:30")
    return seconds
