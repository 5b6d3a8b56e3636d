"""Requests that rest: their memory lies in host memory, and the state of their decoder with it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from reelray.proto.errors import ResourceError
from reelray.proto.request import RequestId
from reelray.proto.step_plan import StepPlan
from reelray.workers.engine.forwards import Forwards
from reelray.workers.models.api import VideoModel
from reelray.workers.models.sharding import DecodeParts

if TYPE_CHECKING:
    from reelray.workers.engine.held_request import HeldRequest
    from reelray.workers.engine.station import Station


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
    memory, rooms = forwards.memory, forwards.rooms
    if memory is None or memory.rests:
        return decoder
    if decoder is None or isinstance(decoder, RestingDecoder):
        rooms.park(memory)
    else:
        parts = model.take_apart(decoder)
        rooms.park(memory, parts.slots)
        decoder = RestingDecoder(parts=replace(parts, slots=()))
    forwards.clean.park()
    return decoder


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
    if forwards.memory is None:
        return decoder
    forwards.rooms.prefetch(forwards.memory)
    slots = forwards.memory.wake()
    forwards.clean.wake()
    if not isinstance(decoder, RestingDecoder):
        return decoder
    return model.put_together(replace(decoder.parts, slots=tuple(slots)))


def show_decoder(forwards: Forwards, model: VideoModel, decoder: Any) -> Any:
    """The state of a decoder; of one that rests a copy, and it goes on resting."""
    if not isinstance(decoder, RestingDecoder):
        return decoder
    assert forwards.memory is not None
    return model.put_together(replace(decoder.parts, slots=tuple(forwards.memory.show_beside())))


def copy_decoder(forwards: Forwards, model: VideoModel, decoder: Any, *, rests: bool) -> tuple[Any, list[Tensor]]:
    """The state of the decoder of a fork; where the first one rests it rests with the copy of its memory.

    Returns:
        The state, and tensors that are yet to rest beside the memory.
    """
    if decoder is None or (forwards.memory is not None and forwards.memory.rests):
        return decoder, []
    parts = model.take_apart(show_decoder(forwards, model, decoder))
    if rests:
        return RestingDecoder(parts=replace(parts, slots=())), list(parts.slots)
    return model.put_together(replace(parts, slots=tuple(slot.clone() for slot in parts.slots))), []


def rest(held: "HeldRequest") -> None:
    """Have a request give its room to others; where there is no host memory for it, it keeps it."""
    with suppress(ResourceError):
        held.park()


@contextmanager
def noting_lack(request_id: RequestId, lacking: set[RequestId]) -> Iterator[None]:
    """Take it for an ordinary outcome that there is no room for what is done within.

    Args:
        request_id: For whom it is done.
        lacking: Those that found no room; it joins them.
    """
    try:
        yield
    except ResourceError:
        lacking.add(request_id)


def come_back(held: "HeldRequest", station: "Station", waiting: set[RequestId]) -> None:
    """Have a request that rests, or found no room where it was moved, begin to come back if there is room now.

    Args:
        held: The request.
        station: Of this rank.
        waiting: Those that found no room.
    """
    with noting_lack(held.request.request_id, waiting):
        if held.forwards.memory is None:
            held.begin_memory(station)
        else:
            held.prefetch()


def list_rests(
    plan: StepPlan, held: Mapping[RequestId, "HeldRequest"], station: "Station", waiting: set[RequestId]
) -> Iterator[tuple["HeldRequest", Callable[[], None]]]:
    """What a plan says of rest: requests of this rank, and what begins the copies of each. Later work waits for them.

    Args:
        plan: The plan.
        held: Requests of this rank.
        station: Of this rank.
        waiting: See `come_back`.
    """
    for request_id in filter(held.__contains__, plan.parks):
        yield held[request_id], partial(rest, held[request_id])
    for request_id in filter(held.__contains__, plan.fetches):
        yield held[request_id], partial(come_back, held[request_id], station, waiting)
