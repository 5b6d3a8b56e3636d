"""Times of later prompts become latent frames, and wrong ones are named."""

from dataclasses import replace
from fractions import Fraction

import pytest

from reelray.cluster.prompt_changes import choose_changes, read_seconds
from reelray.proto.chunking import Chunking
from reelray.proto.errors import InputError, PromptError, UnsupportedError
from reelray.proto.memory_rule import MemoryRule, Placement
from reelray.proto.model_facts import ModelFacts
from reelray.proto.recipe import Recipe
from reelray.proto.request import PromptChange

FACTS = ModelFacts(
    family="wan", task="t2v", latent_channels=16, spatial_stride=8, temporal_stride=4, patch=(1, 2, 2),
    text_tokens=512, layers=2, dim=32, parameters=1000, positions=64,
)  # fmt: skip
RECIPE = Recipe(name="streams", chunking=Chunking(latent_frames=3), memory=MemoryRule(local=9))


def choose(wanted, *, recipe=RECIPE, frames=81):
    return choose_changes(wanted, recipe, FACTS, frames=frames, fps=Fraction(16), check=str.strip)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("6", 6.0), ("6s", 6.0), (" 6.5s ", 6.5), (".5", 0.5), ("1:30", 90.0), ("0:07.5s", 7.5), (3, 3.0)],
)
def test_seconds_are_read(time, seconds):
    assert read_seconds(time) == seconds


@pytest.mark.parametrize("time", ["0", "-1", "", "soon", "1:2:3", "6 s s", 0, -2.0, float("nan"), float("inf")])
def test_what_is_no_time_is_named(time):
    with pytest.raises(InputError, match="write seconds"):
        read_seconds(time)


def test_a_time_is_the_first_latent_frame_that_shows_nothing_before_it():
    """Latent frame 0 is pixel frame 0, latent frame k pixel frames 4k - 3 to 4k."""
    for latent_frame in range(1, 15):
        begin = FACTS.frames(latent_frame)
        (exact,) = choose([(begin / 16, "x")])
        (after,) = choose([((begin + 0.1) / 16, "x")]) if latent_frame < 14 else (exact,)
        assert exact == PromptChange(latent_frame=latent_frame, prompt="x")
        assert after.latent_frame == latent_frame + (latent_frame < 14)


def test_prompts_follow_each_other():
    found = choose([("1s", " one "), (2, "two")])
    assert found == (PromptChange(latent_frame=5, prompt="one"), PromptChange(latent_frame=9, prompt="two"))
    assert choose(None) == choose([]) == ()


def test_another_scene_is_marked():
    cuts = replace(RECIPE, memory=MemoryRule(local=9, placement=Placement.RELATIVE, cut_position=45))
    found = choose([("1s,cut", "one"), (" 2 ,cut ", "two"), ("3", "three")], recipe=cuts)
    assert [change.cut for change in found] == [True, True, False]
    assert [change.latent_frame for change in found] == [5, 9, 13]
    with pytest.raises(UnsupportedError, match="'streams' makes one scene of all prompts"):
        choose([("1s,cut", "one")])
    with pytest.raises(InputError, match="write seconds"):
        choose([("soon,cut", "one")], recipe=cuts)


@pytest.mark.parametrize(
    ("wanted", "error", "said"),
    [
        ([("2s", "a"), ("1s", "b")], InputError, "from 1 s on, which is not after the one before it"),
        ([("1s", "a"), ("1.01s", "b")], InputError, "not after the one before"),
        ([("1.6s", "a"), ("1.9s", "b")], InputError, "no chunk begins between it and the one before"),
        ([("4.9s", "a")], InputError, r"it has 5\.1 s, and its last chunk begins at 4\.3 s"),
        ([("90s", "a")], InputError, "no chunk of this video begins then"),
        ([("1s", "  ")], PromptError, "the prompt at 1 s is empty"),
    ],
)
def test_wrong_changes_are_named(wanted, error, said):
    with pytest.raises(error, match=said):
        choose(wanted)


def test_whole_clips_have_one_prompt():
    with pytest.raises(UnsupportedError, match="makes whole clips of one prompt"):
        choose([("1s", "a")], recipe=replace(RECIPE, chunking=Chunking(), memory=None))


def test_positions_run_out_only_where_they_are_those_of_the_video():
    from reelray.proto.errors import SizeError

    long = FACTS.frames(200)
    with pytest.raises(SizeError, match="too many for this model"):
        choose([("1s", "a")], frames=long)
    endless = replace(RECIPE, memory=MemoryRule(local=9, placement=Placement.RELATIVE))
    assert choose([("40s", "a")], recipe=endless, frames=long)
