"""Streams that remember in several ways, some of whose prompts change, and the rule of the plain loop for each."""

from dataclasses import replace

from reelray.proto.chunking import Chunking
from reelray.proto.memory_rule import Commit, MemoryRule, Placement, PromptSwitch, Sink
from reelray.proto.recipe import Guidance, Recipe, Schedule, Solver
from reelray.proto.request import PromptChange
from tests.support.memory_oracle import latest, moving_sink, pinned
from tests.support.requests import make_request

FEW = Schedule(solver=Solver.X0_RENOISE, timesteps=(1000.0, 500.0), shift=5.0)
SLANTED = Schedule(solver=Solver.X0_RENOISE, timesteps=(1000.0, 357.14), first_chunks=((1000.0, 933.0, 357.0),))
CASES = {
    "sink and latest": (
        FEW,
        MemoryRule(local=4, sink=1, commit_timestep=20.0),
        latest(4, sink=1, chunk=2),
        Guidance(scale=1.0),
    ),
    "last step": (
        SLANTED,
        MemoryRule(local=4, sink=2, commit=Commit.LAST_STEP),
        latest(4, sink=2, chunk=2),
        Guidance(scale=1.0),
    ),
    "moving sink, guided": (
        FEW,
        MemoryRule(local=4, sink=2, sink_kind=Sink.MOVING, sink_kept=0.6, placement=Placement.RELATIVE),
        moving_sink(4, sink=2, chunk=2, kept=0.6),
        Guidance(scale=3.0),
    ),
}


def request_of(case, name="a", *, latent_frames=12, **changes):
    schedule, memory, _, guidance = CASES[case]
    recipe = Recipe(
        name="stream", schedule=schedule, guidance=guidance, chunking=Chunking(latent_frames=2), memory=memory
    )
    size = {"width": 48, "height": 32, "prompt": "a red circle", "latent_frames": latent_frames}
    return make_request(name, recipe=recipe, **(size | changes))


SWITCHED = {
    "recached, sink kept": (
        MemoryRule(local=4, sink=2, switch=PromptSwitch.RECACHE, switch_frames=6),
        latest(4, sink=2, chunk=2),
        {8: (4, 2)},
    ),
    "recached from the beginning": (
        MemoryRule(local=6, sink=2, switch=PromptSwitch.RECACHE, switch_frames=8),
        latest(6, sink=2, chunk=2),
        {8: (0, 0)},
    ),
    "recached, last step": (
        MemoryRule(local=4, sink=2, commit=Commit.LAST_STEP, switch=PromptSwitch.RECACHE, switch_frames=6),
        latest(4, sink=2, chunk=2),
        {8: (4, 2)},
    ),
    "flushed": (
        MemoryRule(local=6, sink=1, placement=Placement.RELATIVE, switch=PromptSwitch.FLUSH, switch_frames=1),
        latest(6, sink=1, chunk=2, relative=True, flushed=(8, 1)),
        None,
    ),
    "another scene pins its sink": (
        MemoryRule(local=6, sink=2, sink_kind=Sink.PINNED, scene_shift=8),
        pinned(6, sink=2, chunk=2, scenes=(8, 12), shift=8),
        None,
    ),
    "only the text": (MemoryRule(local=4, sink=1), latest(4, sink=1, chunk=2), None),
}


def switched_request(case):
    """The prompt changes in the middle of the fourth chunk, so the fifth is the first one that goes by the new one."""
    memory = SWITCHED[case][0]
    changes = [PromptChange(latent_frame=7, prompt="a blue star spins", cut=memory.knows_scenes)]
    if memory.knows_scenes:
        changes.append(PromptChange(latent_frame=12, prompt="a green square", cut=True))
    request = request_of("sink and latest", latent_frames=18 if memory.knows_scenes else 12)
    return replace(request, recipe=replace(request.recipe, memory=memory), changes=tuple(changes))
