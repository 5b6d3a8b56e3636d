"""Steps of videos whose chunks share forwards, against a simulation that knows nothing of turns and rounds."""

import random

import pytest

from reelray.proto.chunking import Chunking
from reelray.proto.memory_rule import MemoryRule
from reelray.proto.recipe import Guidance, Recipe, Schedule, Solver
from reelray.proto.request import PromptChange
from reelray.proto.step_plan import Part
from reelray.scheduler.chunks import cut_chunks
from reelray.scheduler.steps import plan_steps


def make_recipe(levels, stagger, *, frames=None, overlap=0):
    listed = tuple(1000.0 - 100 * level for level in range(levels))
    return Recipe(
        name="x",
        schedule=Schedule(solver=Solver.X0_RENOISE, timesteps=listed),
        guidance=Guidance(scale=1.0),
        chunking=Chunking(latent_frames=2, stagger=stagger, round_latent_frames=frames, overlap=overlap),
        memory=MemoryRule(local=40) if frames is None else None,
    )


def simulate(chunks, levels, stagger):
    """What moves, turn by turn: a chunk may begin when the one before it is `stagger` steps ahead, or done."""
    done = [0] * chunks
    while min(done) < levels:
        ready = [done[n] > 0 or n == 0 or min(levels, done[n - 1]) >= stagger for n in range(chunks)]
        moving = [n for n in range(chunks) if ready[n] and done[n] < levels]
        yield [(n, done[n]) for n in moving]
        for n in moving:
            done[n] += 1


@pytest.mark.parametrize("seed", range(20))
def test_chunks_move_as_soon_as_the_one_before_is_far_enough(seed):
    rng = random.Random(seed)
    levels, latent_frames = rng.randint(1, 6), rng.randint(1, 17)
    stagger = rng.randint(1, levels)
    recipe = make_recipe(levels, stagger)
    chunks = cut_chunks(recipe.chunking, latent_frames)
    steps = plan_steps(recipe, chunks)
    found = [steps.find(done) for done in range(len(steps))]
    windows = [[(slot.chunk, slot.step) for slot in step.slots] for step in found if step.slots]
    assert windows == [*simulate(len(chunks), levels, stagger)]
    assert max(map(len, windows)) <= recipe.in_flight
    assert steps.find(len(steps)) is None
    clean = 0
    for done, step in enumerate(found):
        assert steps.clean_chunks(done) == clean
        if step.slots:
            leaving = [slot.chunk for slot in step.slots if slot.step == levels - 1]
            assert [slot.chunk for slot in step.slots if slot.last] == leaving
            assert step.last is bool(leaving)
            clean += len(leaving)
        else:  # the chunk that has just left, unless it is the last one
            assert step.chunk == clean - 1 < len(chunks) - 1
            assert step.commits
            assert step.span == chunks[step.chunk]
    assert clean == len(chunks)
    assert sum(step.commits for step in found) == len(chunks) - 1


@pytest.mark.parametrize(("stagger", "wanted"), [(1, [3]), (2, [1, 3, 6, 9])])
def test_a_turn_is_kept_while_the_same_chunks_are_in_flight(stagger, wanted):
    """Three chunks of four steps. One apart, all three share two windows; two apart, every window comes twice."""
    recipe = make_recipe(4, stagger)
    steps = plan_steps(recipe, cut_chunks(recipe.chunking, 6))
    assert [done for done in range(len(steps) + 1) if steps.is_amid_chunk(done)] == wanted


def test_the_newest_chunk_of_a_window_says_by_which_prompt_it_goes():
    recipe = make_recipe(3, 1)
    steps = plan_steps(recipe, cut_chunks(recipe.chunking, 10), [PromptChange(latent_frame=3, prompt="y")])
    found = [steps.find(done) for done in range(len(steps))]
    assert [max(slot.chunk for slot in step.slots) if step.slots else None for step in found[:6]] == [
        0,
        1,
        2,
        None,
        3,
        None,
    ]
    assert [step.prompt for step in found] == [0, 0, *[1] * (len(found) - 2)]


def test_a_round_begins_when_all_chunks_of_the_one_before_are_clean():
    recipe = make_recipe(2, 1, frames=6, overlap=2)
    steps = plan_steps(recipe, cut_chunks(recipe.chunking, 10), [PromptChange(latent_frame=3, prompt="y")])
    found = [steps.find(done) for done in range(len(steps))]
    shown = [[(slot.chunk, slot.part.value[0], slot.step) for slot in step.slots] for step in found]
    assert shown == [
        [(0, "m", 0), (1, "w", 0), (2, "w", 0)],
        [(0, "m", 1), (1, "m", 0), (2, "w", 0)],
        [(0, "r", 0), (1, "m", 1), (2, "m", 0)],
        [(0, "r", 0), (1, "r", 0), (2, "m", 1)],
        [(2, "g", 0), (3, "m", 0), (4, "w", 0)],
        [(2, "g", 1), (3, "m", 1), (4, "m", 0)],
        [(2, "g", 2), (3, "r", 0), (4, "m", 1)],
    ]
    assert [steps.clean_chunks(done) for done in range(8)] == [0, 0, 1, 2, 3, 3, 4, 5]
    assert [step.prompt for step in found] == [0] * 4 + [1] * 3
    assert all(slot.part is Part.MOVES for step in found for slot in step.slots if slot.last)


def test_a_video_that_stops_in_the_clean_pass_of_its_last_chunk_is_clean():
    """The longer video had that pass, the shorter one has not."""
    recipe = make_recipe(2, 2)
    longer, shorter = (plan_steps(recipe, cut_chunks(recipe.chunking, latent_frames)) for latent_frames in (8, 4))
    done = next(n for n in range(len(longer)) if longer.clean_chunks(n) == 2) + 1
    assert done > len(shorter)
    assert shorter.clean_chunks(done) == 2
