"""What a running request makes of what is said to it."""

from dataclasses import replace
from typing import assert_never

from reelray.proto.session import Extend, Order, Pace, Pause, Resume, Say, Standing, Stop
from reelray.proto.step_plan import Amend
from reelray.scheduler.amendments import extend, say, stop
from reelray.scheduler.rollout import Phase, Rollout


def carry_out(rollout: Rollout, order: Order) -> tuple[Standing, Amend | None]:
    """Let a request go by an order from here on.

    Args:
        rollout: Of the request; it has not ended.
        order: What is said.

    Returns:
        How it stands, and what the ranks are to be told of it.

    Raises:
        InputError: It comes too late; nothing has changed.
        SizeError: The model cannot place so many frames, or scenes; nothing has changed.
    """
    before, request = rollout.request, rollout.request
    facts, chunks, begun = rollout.facts, rollout.chunks, rollout.chunks_begun
    touched = begun
    match order:
        case Say():
            request, touched = say(request, order, chunks, begun)
        case Extend():
            request = extend(request, order, facts, chunks, begun)
        case Stop():
            request = stop(request, facts, chunks, begun)
        case Pace():
            rollout.follow(replace(request, pace_fps=order.fps))  # the ranks need not know
            request = before = rollout.request
        case Pause() | Resume():
            pass
        case _:
            assert_never(order)
    if request is not before:
        facts.check_memory(request.recipe, frames=request.frames, scenes=request.scenes)
        rollout.follow(request)
    rollout.paused = isinstance(order, Pause) or (rollout.paused and not isinstance(order, Resume | Stop))
    if rollout.is_decoded and rollout.phase is Phase.RUNNING:
        rollout.phase = Phase.FINISHED
    return _standing(rollout, touched), None if request is before else _amend(rollout)


def _standing(rollout: Rollout, chunk: int) -> Standing:
    chunks, facts = rollout.chunks, rollout.facts
    first = chunks[chunk].first if chunk < len(chunks) else chunks[-1].end
    return Standing(
        request_id=rollout.request.request_id,
        frame=facts.frames(first) if first else 0,
        prompt=rollout.request.prompt,
        changes=rollout.request.changes,
        frames=rollout.request.frames,
        paused=rollout.paused,
        finished=rollout.phase is Phase.FINISHED,
    )


def _amend(rollout: Rollout) -> Amend:
    request = rollout.request
    return Amend(request_id=request.request_id, prompt=request.prompt, changes=request.changes, frames=request.frames)
