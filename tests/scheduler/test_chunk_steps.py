"""Steps of a video over all its chunks."""

from dataclasses import replace

import pytest

from reelray.proto.chunking import Chunking
from reelray.proto.memory_rule import Commit, MemoryRule, Placement, PromptSwitch
from reelray.proto.recipe import Recipe, Schedule, Solver
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


def steps_by(memory, *changes, latent_frames=12):
    schedule = Schedule(solver=Solver.X0_RENOISE, timesteps=(1000.0, 500.0))
    recipe = Recipe(name="x", schedule=schedule, chunking=Chunking(latent_frames=2), memory=memory)
    steps = ChunkSteps(recipe, cut_chunks(recipe.chunking, latent_frames), changes)
    return [steps.find(done) for done in range(len(steps))]


def test_a_rebuild_comes_before_every_chunk_but_the_first():
    memory = MemoryRule(local=4, sink=1, placement=Placement.RELATIVE, commit=Commit.REBUILD)
    found = steps_by(memory, latent_frames=8)
    rebuilt = {s.chunk: (s.span.first, s.span.length, s.commits) for s in found if s.recaches}
    assert rebuilt == {1: (0, 2, True), 2: (1, 3, True), 3: (3, 3, True)}
    assert [(s.chunk, s.step) for s in found if s.commits] == [(1, -1), (2, -1), (3, -1)]
    assert [memory.frames_anew(first, 2) for first in (2, 4, 6)] == [(0, 1), (0, 2, 3), (0, 4, 5)]


@pytest.mark.parametrize("commit", [Commit.CLEAN, Commit.LAST_STEP])
def test_a_rollout_begins_with_what_is_evaluated_anew_and_not_remembered_before(commit):
    memory = MemoryRule(local=6, rollout=6, overlap=2, placement=Placement.RELATIVE, commit=commit)
    found = steps_by(memory, latent_frames=14)
    assert [(s.chunk, s.span.first, s.span.length) for s in found if s.recaches] == [(3, 4, 2), (5, 8, 2)]
    assert {s.chunk for s in found if s.commits and not s.recaches} == {0, 1, 3, 5}


def test_texts_turn_into_the_next_one_in_equal_steps():
    memory = MemoryRule(local=4, switch=PromptSwitch.LERP, switch_chunks=3)
    found = steps_by(memory, PromptChange(latent_frame=2, prompt="y"), PromptChange(latent_frame=5, prompt="z"))
    mixes = {step.chunk: step.mix for step in found}
    assert mixes[0] == ()
    assert mixes[1] == pytest.approx((2 / 3, 1 / 3))
    assert mixes[2] == pytest.approx((1 / 3, 2 / 3))
    # The third prompt comes before the second has arrived: from what the text is by then.
    assert mixes[3] == pytest.approx((2 / 9, 4 / 9, 1 / 3))
    assert mixes[4] == pytest.approx((1 / 9, 2 / 9, 2 / 3))
    assert mixes[5] == ()
    assert [step.prompt for step in found if step.step == 0] == [0, 1, 1, 2, 2, 2]
    assert not any(step.mix for step in steps_by(MemoryRule(local=4), PromptChange(latent_frame=2, prompt="y")))


def test_another_scene_has_one_first_chunk():
    memory = MemoryRule(local=4, sink=1, placement=Placement.RELATIVE, cut_position=9)
    cut, other = PromptChange(latent_frame=3, prompt="y", cut=True), PromptChange(latent_frame=8, prompt="z")
    found = steps_by(memory, cut, other)
    assert {step.chunk for step in found if step.cuts} == {2}
    assert {step.step for step in found if step.cuts} == {0, 1, 2}
