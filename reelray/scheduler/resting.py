"""Which streams let others have their room, and which come back.

A paused stream that remembers gives its room away with the next plan; what it remembers goes to host memory. Resumed,
it comes back with the next plan, which has the ranks begin to copy, and moves with the one after. Where the ranks have
no room by then it goes on resting, and is asked again whenever one gives something back.
"""

from collections.abc import Collection, Iterable

from reelray.proto.request import RequestId
from reelray.proto.step_plan import StepPlan
from reelray.scheduler.rollout import Phase, Rollout


def list_parks(rollouts: Iterable[Rollout], moved: Collection[RequestId] = ()) -> tuple[RequestId, ...]:
    """Streams that were paused and have room of their own; one that is moved has it elsewhere a plan later."""
    return tuple(
        rollout.request.request_id
        for rollout in rollouts
        if rollout.phase is Phase.RUNNING
        and rollout.paused
        and not rollout.rests
        and rollout.request.recipe.memory is not None
        and rollout.request.request_id not in moved
    )


def list_fetches(
    rollouts: Iterable[Rollout], moved: Collection[RequestId] = (), *, most: int, frees: bool
) -> tuple[RequestId, ...]:
    """Streams that are to come back; what is moved comes back thereby.

    Args:
        rollouts: Of all requests.
        moved: Those that the plan moves.
        most: How many the ranks may take in.
        frees: Whether the plan gives room back, so that those may ask again that found none.
    """
    due = [
        rollout.request.request_id
        for rollout in rollouts
        if comes_back(rollout) and (frees or not rollout.waits_for_room) and rollout.request.request_id not in moved
    ]
    return tuple(due[: max(0, most)])


def comes_back(rollout: Rollout) -> bool:
    """Whether a stream that rests is to go on."""
    return rollout.phase is Phase.RUNNING and rollout.rests and not rollout.paused


def note_plan(rollouts: dict[RequestId, Rollout], plan: StepPlan) -> None:
    """Note what a plan that is issued says of rest."""
    for request_id in plan.parks:
        rollouts[request_id].rests = True
    for move in plan.moves:  # it has to find room there
        rollouts[move.request_id].rests = rollouts[move.request_id].waits_for_room = False


def note_report(rollouts: Collection[Rollout], plan: StepPlan, waiting: Collection[RequestId]) -> None:
    """Note who has come back.

    Args:
        rollouts: Of the plan's requests that still go on.
        plan: That was carried out.
        waiting: Requests that found no room.
    """
    moves = {move.request_id: move.target.layout for move in plan.moves}
    for rollout in rollouts:
        request_id = rollout.request.request_id
        if request_id in plan.fetches or request_id in waiting:
            rollout.rests = rollout.waits_for_room = request_id in waiting
        if request_id in waiting and request_id in moves:
            rollout.cramped.add(moves[request_id])
