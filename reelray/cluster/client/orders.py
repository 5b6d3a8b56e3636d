"""What may be said in a conversation, as it goes over the wire."""

from collections.abc import Mapping
from fractions import Fraction
from numbers import Real
from typing import Any, TypeAlias

from reelray.cluster.client.requests import check_unicode
from reelray.cluster.prompt_changes import read_cut, read_seconds
from reelray.proto.errors import InputError, PromptError

Order: TypeAlias = Mapping[str, Any]


def order_say(prompt: str, at: str | float | None, *, cut: bool) -> Order:
    """Another prompt; see `StreamSession.say`."""
    said: dict[str, Any] = {"prompt": _check_prompt(prompt), "cut": bool(cut)}
    if at is not None:
        at, marked = read_cut(at)
        said |= {"seconds": read_seconds(at), "cut": bool(cut or marked)}
    return {"say": said}


def order_extend(seconds: float | str) -> Order:
    """More video; see `StreamSession.extend`."""
    return {"extend": {"seconds": read_seconds(seconds, "what is to be added")}}


def order_seek(seconds: float | str, *, position: int, fps: Fraction) -> Order:
    """Back to a time; see `StreamSession.seek`.

    Args:
        seconds: Of video.
        position: Pixel frame that comes next.
        fps: Of the video.
    """
    back_s = read_seconds(seconds, "the time to go back to", zero=True)
    if back_s * fps > position:
        raise InputError(f"{back_s:g} s has not been shown yet; the stream is at {float(position / fps):.2f} s")
    return {"seek": {"seconds": back_s}}


def order_fork(prompt: str | None) -> Order:
    """A second session; see `StreamSession.fork`."""
    return {"fork": {} if prompt is None else {"prompt": _check_prompt(prompt)}}


def order_pace(fps: float | None) -> Order:
    """Another speed of playback; see `StreamSession.pace`."""
    if isinstance(fps, bool) or not isinstance(fps, Real | None):
        raise InputError(f"pace is {fps!r}; it must be a number, or None")
    return {"pace": {} if fps is None else {"fps": float(fps)}}


PAUSE: Order = {"pause": {}}
RESUME: Order = {"resume": {}}
STOP: Order = {"stop": {}}


def _check_prompt(prompt: object) -> str:
    if not isinstance(prompt, str):
        raise PromptError(f"the prompt is {prompt!r}; it must be text")
    check_unicode(prompt)
    return prompt
