"""Steps of a video over all its chunks."""

from dataclasses import replace

import pytest

from reelray.proto.chunking import Chunking
from reelray.proto.recipe import Commit, MemoryRule, PromptSwitch, Recipe, Schedule, Solver
from reelray.proto.request import PromptChange
from reelray.scheduler.chunk_steps import ChunkSteps
from reelray.scheduler.chunks import cut_chunks

LISTED = Schedule(solver=Solver.X0_RENOISE, timesteps=(1000.0, 500.0), first_chunks=((1000.0, 900.0, 500.0), (1000.0,)))


def steps_of(memory, schedule=LISTED, *, latent_frames=8):
    recipe = Recipe(name="x", schedule=schedule, chunking=Chunking(latent_frames=2), memory=memory)
    steps = ChunkSteps(recipe, cut_chunks(recipe.chunking, latent_frames))
    found = [steps.find(done) for done in range(len(steps))]
    assert steps.find(len(steps)) is None
    return steps, [(s.chunk, s.step, s.last, s.commits) for s in found]


def test_a_clean_pass_follows_every_chunk_but_the_last():
    steps, found = steps_of(MemoryRule(local=4))
    assert found == [
        (0, 0, False, False),
        (0, 1, False, False),
        (0, 2, True, False),
        (0, 3, False, True),
        (1, 0, True, False),
        (1, 1, False, True),
        (2, 0, False, False),
        (2, 1, True, False),
        (2, 2, False, True),
        (3, 0, False, False),
        (3, 1, True, False),
    ]
    assert [steps.clean_chunks(done) for done in range(12)] == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4]


def test_the_last_step_may_be_what_is_remembered():
    _, found = steps_of(MemoryRule(local=4, commit=Commit.LAST_STEP))
    assert [step[3] for step in found] == [False, False, True, True, False, True, False, False]
    assert [step[2] for step in found] == [False, False, True, True, False, True, False, True]


@pytest.mark.parametrize("memory", [None, MemoryRule(local=4)])
def test_one_chunk_has_its_denoise_steps_only(memory):
    steps, found = steps_of(memory, replace(LISTED, first_chunks=()), latent_frames=2)
    assert found == [(0, 0, False, False), (0, 1, True, False)]
    assert [steps.clean_chunks(done) for done in range(3)] == [0, 0, 1]


@pytest.mark.parametrize(("latent_frame", "wanted"), [(4, (0, 4)), (8, (5, 3))])
def test_a_recache_leaves_the_sink_of_a_longer_video_alone(latent_frame, wanted):
    memory = MemoryRule(local=4, sink=1, switch=PromptSwitch.RECACHE, switch_frames=4)
    recipe = Recipe(name="x", schedule=LISTED, chunking=Chunking(latent_frames=2), memory=memory)
    chunks = cut_chunks(recipe.chunking, 12)
    steps = ChunkSteps(recipe, chunks, [PromptChange(latent_frame=latent_frame, prompt="y")])
    (recache,) = [step for step in map(steps.find, range(len(steps))) if step.recaches]
    assert (recache.span.first, recache.span.length) == wanted
