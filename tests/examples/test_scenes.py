import random

import pytest
import torch

from examples.train_sprites.captions import write_caption, write_plain_caption
from examples.train_sprites.scenes import Mixture, SceneBatch, is_held_out, sample_held_out_captions, sample_scenes
from reelray.quality.sprites.caption import parse_caption
from reelray.quality.sprites.scene import Scene
from reelray.quality.sprites.vocabulary import BACKGROUNDS, COLORS, MOTIONS, SHAPES, clashes, is_visible


def sample(batch: int, split: str = "train", seed: int = 3) -> SceneBatch:
    return sample_scenes(batch, torch.Generator().manual_seed(seed), split=split)


def describe_all(scenes: SceneBatch) -> list[Scene]:
    return [scenes.describe(index) for index in range(len(scenes))]


def test_the_same_seed_gives_the_same_scenes() -> None:
    first, again, other = sample(50), sample(50), sample(50, seed=4)
    assert torch.equal(first.x_BK, again.x_BK)
    assert describe_all(first) == describe_all(again)
    assert describe_all(first) != describe_all(other)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_split_keeps_to_its_combinations(split: str) -> None:
    for scene in describe_all(sample(600, split)):
        for sprite in scene.sprites:
            assert is_held_out(sprite.color, sprite.shape, sprite.motion) == (split == "held_out")


def test_training_still_shows_every_word_often() -> None:
    sprites = [sprite for scene in describe_all(sample(3000)) for sprite in scene.sprites]
    for attribute, names in (("color", COLORS), ("shape", SHAPES), ("motion", MOTIONS)):
        counts = [sum(getattr(sprite, attribute) == name for sprite in sprites) for name in names]
        assert min(counts) > 0.5 * sum(counts) / len(counts)


def test_restless_scenes_are_as_much_likelier_as_asked() -> None:
    trained = [
        motion
        for color in COLORS
        for shape in SHAPES
        for motion in MOTIONS
        if is_visible(shape, motion) and not is_held_out(color, shape, motion)
    ]
    restless = sum(motion in {"spin", "bounce"} for motion in trained)
    wanted = 5 * restless / (5 * restless + len(trained) - restless)
    scenes = sample_scenes(3000, torch.Generator().manual_seed(1), pair_share=0.0, restless=5.0)
    found = [scene.sprites[0] for scene in describe_all(scenes)]
    assert abs(sum(sprite.motion in {"spin", "bounce"} for sprite in found) / 3000 - wanted) < 0.03
    assert not any(is_held_out(sprite.color, sprite.shape, sprite.motion) for sprite in found)


def test_either_of_two_sprites_makes_a_scene_restless() -> None:
    def share(restless: float) -> float:
        scenes = sample_scenes(3000, torch.Generator().manual_seed(1), pair_share=1.0, restless=restless)
        return sum(any(s.motion in {"spin", "bounce"} for s in scene.sprites) for scene in describe_all(scenes)) / 3000

    plain = share(1.0)
    assert abs(share(4.0) - 4 * plain / (4 * plain + 1 - plain)) < 0.03


def test_beige_is_as_much_likelier_as_asked() -> None:
    def odds(beige: float) -> float:
        scenes = sample_scenes(4000, torch.Generator().manual_seed(1), pair_share=0.0, beige=beige)
        # Red may stand on every background, so nothing but the favour moves its odds.
        found = [scene for scene in describe_all(scenes) if scene.sprites[0].color == "red"]
        hits = sum(scene.background == "beige" for scene in found)
        return hits / (len(found) - hits)

    assert 2.2 < odds(3.0) / odds(1.0) < 4.1


@pytest.mark.parametrize("values", [{"pair_share": 1.5}, {"restless": 0.0}, {"beige": -1.0}])
def test_a_mixture_that_cannot_be_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Mixture(**values)


def test_scenes_are_seen_and_told_apart() -> None:
    scenes = describe_all(sample(1000))
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    for scene in scenes:
        assert all(not clashes(sprite.color, scene.background) for sprite in scene.sprites)
        assert all(is_visible(sprite.shape, sprite.motion) for sprite in scene.sprites)
        if len(scene.sprites) == 2:
            first, second = scene.sprites
            assert first.color != second.color
            assert first.shape != second.shape


def test_the_default_prompt_is_learnt() -> None:
    assert not is_held_out("red", "circle", "left")
    assert not clashes("red", "blue")


def test_captions_are_read_back_as_the_scenes_they_tell() -> None:
    rng = random.Random(0)
    wordings = set()
    for scene in describe_all(sample(400)):
        caption = write_caption(scene, rng)
        wordings.add(caption)
        parsed = parse_caption(caption)
        assert parsed.background == scene.background
        assert set(parsed.sprites) == set(scene.sprites)
        assert parse_caption(write_plain_caption(scene)) == scene
    assert len(wordings) > 380


def test_held_out_captions_are_repeatable_and_match_their_scenes() -> None:
    captions = sample_held_out_captions(20, seed=1)
    assert captions == sample_held_out_captions(20, seed=1)
    assert captions != sample_held_out_captions(20, seed=2)
    assert all(set(parse_caption(text).sprites) == set(scene.sprites) for text, scene in captions)
