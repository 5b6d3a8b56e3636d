"""Sizes that a model can place, and those it cannot."""

import pytest

from reelray.proto.errors import SizeError
from reelray.proto.memory_rule import MemoryRule, Placement, Sink
from tests.support.requests import make_facts, make_recipe


def test_the_longest_clip_and_the_largest_picture_fit() -> None:
    facts = make_facts(positions=6)
    assert facts.latent_frames(21) == 6
    assert facts.latent_size(width=96, height=96) == (12, 12)


def test_beyond_the_last_position_is_refused() -> None:
    # On a GPU a position beyond the table would kill the whole process.
    facts = make_facts(positions=6)
    with pytest.raises(SizeError, match="25 frames are too many for this model; it makes at most 21"):
        facts.latent_frames(25)
    with pytest.raises(SizeError, match="width 112 is too large for this model; it makes at most 96"):
        facts.latent_size(width=112, height=96)
    with pytest.raises(SizeError, match="height 112 is too large"):
        facts.latent_size(width=96, height=112)


@pytest.mark.parametrize(
    ("memory", "least", "said"),
    [
        ({"cut_position": 45}, 48, "memory.cut_position is 45, where 3 frames need 48 positions; the model has 47"),
        ({"placement": Placement.WRAPPED, "wrap": 50}, 50, "memory.wrap is 50; the model has 49 positions"),
        ({"placement": Placement.RELATIVE}, 10, "a chunk and what it attends are 10 latent frames; the model has 9"),
    ],
)
def test_places_of_what_is_remembered_are_compared_too(memory, least, said) -> None:
    recipe = make_recipe(chunk=1, first_chunk=3, memory=MemoryRule(local=7, sink=3, **memory))
    make_facts(positions=least).check_memory(recipe)
    make_facts(positions=None).check_memory(recipe)
    with pytest.raises(SizeError, match=said):
        make_facts(positions=least - 1).check_memory(recipe)


def test_scenes_that_stand_apart_take_positions() -> None:
    recipe = make_recipe(chunk=1, memory=MemoryRule(local=3, sink=1, sink_kind=Sink.PINNED, scene_shift=8))
    facts = make_facts(positions=26)
    facts.check_memory(recipe, frames=37, scenes=2)
    with pytest.raises(SizeError, match=r"41 frames with 2 more scenes are too many.*it makes at most 37"):
        facts.check_memory(recipe, frames=41, scenes=2)
