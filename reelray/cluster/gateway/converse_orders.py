"""What a client orders in a conversation, carried out on its stream."""

from collections.abc import Callable

from reelray.cluster.gateway.statuses import LONGEST_ID, LONGEST_MESSAGE
from reelray.cluster.stream_session import StreamSession
from reelray.proto.errors import InputError, ReelrayError, UnsupportedError
from reelray.proto.request import RenderRequest
from reelray.proto.v1 import converse_pb2 as wire

LARGEST_PROMPTS = 1_000_000
"""Bytes of all prompts of a session: they go into one message in the end."""
LONGEST_S = 86_400


def carry_out(
    stream: StreamSession, command: wire.ConverseRequest.Command, adopt: Callable[[StreamSession], str]
) -> wire.ConverseEvent.Answer:
    """Carry a command out.

    Args:
        stream: Of the session.
        command: What is ordered.
        adopt: Takes a fork in and gives it a name.

    Raises:
        ReelrayError: It cannot be carried out; the stream is as it was.
    """
    kind = command.WhichOneof("order")
    if kind is None:
        raise UnsupportedError("the command has no order that this version knows")
    answer = wire.ConverseEvent.Answer()
    seconds = _SIMPLE[kind](stream, command) if kind in _SIMPLE else None
    if kind == "fork":
        other = stream.fork(command.fork.prompt if command.fork.HasField("prompt") else None)
        answer.frame, answer.fork = other.position, adopt(other)
    elif seconds is not None:
        answer.frame = round(seconds * stream.fps)
    return answer


def refusal_of(error: ReelrayError) -> wire.ConverseEvent.Refusal:
    """Why a command was not carried out."""
    ids = {name: value[:LONGEST_ID] for name, value in error.ids.items()}
    refusal = wire.ConverseEvent.Refusal(reason=error.code, message=error.message[:LONGEST_MESSAGE], metadata=ids)
    if error.retry_after_ms is not None:
        refusal.retry_after_ms = error.retry_after_ms
    return refusal


def check_prompts(request: RenderRequest, further: str = "") -> None:
    """Refuse prompts that would not fit into one message together.

    Raises:
        InputError: There are too many.
    """
    prompts = [request.negative_prompt, request.prompt, further, *(change.prompt for change in request.changes)]
    if sum(len(prompt.encode()) + 16 for prompt in prompts) > LARGEST_PROMPTS:
        raise InputError(f"a session has at most {LARGEST_PROMPTS} bytes of prompts; these {len(prompts)} have more")


def _say(stream: StreamSession, command: wire.ConverseRequest.Command) -> float:
    said = command.say
    check_prompts(stream.job.request, said.prompt)
    return stream.say(said.prompt, said.seconds if said.HasField("seconds") else None, cut=said.cut)


def _extend(stream: StreamSession, command: wire.ConverseRequest.Command) -> None:
    if command.extend.seconds > LONGEST_S:
        raise InputError(f"a video is extended by at most a day ({LONGEST_S} s) at a time")
    stream.extend(command.extend.seconds)


def _seek(stream: StreamSession, command: wire.ConverseRequest.Command) -> float:
    return stream.seek(command.seek.seconds)


def _pace(stream: StreamSession, command: wire.ConverseRequest.Command) -> None:
    stream.pace(command.pace.fps if command.pace.HasField("fps") else None)


def _pause(stream: StreamSession, _command: wire.ConverseRequest.Command) -> None:
    stream.pause()


def _resume(stream: StreamSession, _command: wire.ConverseRequest.Command) -> None:
    stream.resume()


def _stop(stream: StreamSession, _command: wire.ConverseRequest.Command) -> None:
    stream.stop()


_SIMPLE: dict[str, Callable[[StreamSession, wire.ConverseRequest.Command], float | None]] = {
    "say": _say,
    "extend": _extend,
    "seek": _seek,
    "pace": _pace,
    "pause": _pause,
    "resume": _resume,
    "stop": _stop,
}
"""Those whose answer is a time or nothing."""
