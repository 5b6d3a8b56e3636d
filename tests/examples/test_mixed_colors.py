import random

import torch

from examples.train_sprites.mixed_colors import mix_colors
from examples.train_sprites.scenes import SceneBatch, is_held_out, sample_scenes
from reelray.quality.sprites.vocabulary import BACKGROUNDS, CLASH_DISTANCE, COLORS, MOTIONS, SHAPES, color_distance


def mixed(share: float, batch: int = 600) -> tuple[SceneBatch, SceneBatch]:
    generator = torch.Generator().manual_seed(5)
    scenes = sample_scenes(batch, generator, pair_share=0.5)
    return scenes, mix_colors(scenes, share, generator)


def test_a_mixture_is_never_nearest_to_a_color_that_would_be_held_out() -> None:
    _, scenes = mixed(1.0)
    for b in range(len(scenes)):
        for k in range(1 + int(scenes.present_BK[b, 1])):
            paint = tuple(scenes.paint_BK3[b, k].tolist())
            nearest = min(COLORS, key=lambda name: color_distance(COLORS[name], paint))
            assert not is_held_out(nearest, SHAPES[scenes.shape_BK[b, k]], list(MOTIONS)[scenes.motion_BK[b, k]])


def test_a_mixture_is_seen_before_its_background() -> None:
    _, scenes = mixed(1.0)
    for b, backdrop in enumerate([list(BACKGROUNDS.values())[n] for n in scenes.background_B]):
        paint = tuple(scenes.paint_BK3[b, 0].tolist())
        assert min(color_distance(paint, end) for end in (backdrop.top, backdrop.bottom)) >= CLASH_DISTANCE - 1e-3


def test_most_are_mixed_where_all_may_be_and_none_where_none_may() -> None:
    named = torch.tensor(list(COLORS.values()), dtype=torch.float32)
    before, after = mixed(1.0)
    assert not after.is_named_BK.any()
    assert ((after.paint_BK3 != named[before.color_BK]).any(-1)).float().mean() > 0.6
    before, after = mixed(0.0)
    assert after.is_named_BK.all()
    assert torch.equal(after.paint_BK3, named[before.color_BK])


def test_captions_say_only_colors_that_have_a_name() -> None:
    _, scenes = mixed(0.5)
    rng = random.Random(0)
    for b in range(100):
        text = scenes.write_caption(b, rng)
        for k, sprite in enumerate(scenes.describe(b).sprites):
            assert (f"{sprite.color} {sprite.shape}" in text) == bool(scenes.is_named_BK[b, k])
            assert sprite.shape in text
        assert "an square" not in text
