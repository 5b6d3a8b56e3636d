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
    assert ((after.paint_BK3 != named[before.color_BK]).any(-1)).float().mean() > 0.6
    assert 0.3 < (after.told_BK2 == -1).all(-1).float().mean() < 0.7
    before, after = mixed(0.0)
    assert torch.equal(after.told_BK2, before.told_BK2)
    assert torch.equal(after.paint_BK3, named[before.color_BK])


def test_paint_lies_nearer_to_the_colour_that_is_told_first() -> None:
    _, scenes = mixed(1.0)
    told = (scenes.told_BK2 >= 0).all(-1)
    for paint, (first, second) in zip(scenes.paint_BK3[told], scenes.told_BK2[told].tolist(), strict=True):
        ends = [list(COLORS.values())[number] for number in (first, second)]
        near, far = (color_distance(tuple(paint.tolist()), end) for end in ends)
        assert near <= far
        assert abs(near + far - color_distance(*ends)) < 1e-2


def test_captions_say_what_is_told_of_colors() -> None:
    _, scenes = mixed(0.5)
    rng, names, seen = random.Random(0), list(COLORS), set()
    for b in range(100):
        text = scenes.write_caption(b, rng)
        for k, sprite in enumerate(scenes.describe(b).sprites):
            words = [names[number] for number in scenes.told_BK2[b, k].tolist() if number >= 0]
            phrase = " ".join([*words, sprite.shape])
            assert f" {'an' if phrase[0] in 'aeiou' else 'a'} {phrase} " in f" {text} "
            seen.add(len(words))
    assert seen == {0, 1, 2}
