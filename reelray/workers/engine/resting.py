"""Requests that rest: their memory lies in host memory, and the state of their decoder with it."""

from dataclasses import dataclass, replace
from typing import Any

from reelray.workers.engine.forwards import Forwards
from reelray.workers.models.api import VideoModel
from reelray.workers.models.sharding import DecodeParts


@dataclass(frozen=True, kw_only=True, slots=True)
class RestingDecoder:
    """What is no tensor of a decoder's state whose tensors rest; stands where that state was.

    Args:
        parts: The state without its tensors.
    """

    parts: DecodeParts


def put_to_rest(forwards: Forwards, model: VideoModel, decoder: Any) -> Any:
    """Let a request rest until `wake_up`, so that others may have its room; where it remembers nothing, it stays.

    Args:
        forwards: Its own.
        model: The loaded checkpoint.
        decoder: State of its decoder, if any; not to be used again.

    Returns:
        What to keep instead of the state.

    Raises:
        ResourceError: There is no host memory for it; it stays awake, and so does the state that was given.
    """
    if decoder is None or isinstance(decoder, RestingDecoder) or forwards.memory is None:
        forwards.park()
        return decoder
    parts = model.take_apart(decoder)
    forwards.park(parts.slots)
    return RestingDecoder(parts=replace(parts, slots=()))


def wake_up(forwards: Forwards, model: VideoModel, decoder: Any) -> Any:
    """Have a request as it was before `put_to_rest`; to be called before any other work on it but its release.

    Args:
        forwards: Its own.
        model: The loaded checkpoint.
        decoder: What `put_to_rest` gave.

    Returns:
        The state of its decoder.

    Raises:
        ResourceError: Others have the room; it goes on resting, and may be asked again.
    """
    slots = forwards.wake()
    if not isinstance(decoder, RestingDecoder):
        return decoder
    return model.put_together(replace(decoder.parts, slots=tuple(slots)))
