"""Captions of scenes: a small English grammar with paraphrases. `parse_caption` in the package is its inverse."""

import random

from reelray.quality.sprites.scene import Scene, Sprite
from reelray.quality.sprites.vocabulary import BACKGROUNDS, MOTIONS, PLACES

FINITE, PARTICIPLE = 0, 1


def write_caption(scene: Scene, rng: random.Random) -> str:
    """Say what a scene shows, in one of several ways.

    Args:
        scene: What to describe.
        rng: Chooses the wording and, of two sprites, which comes first.

    Returns:
        One lower-case sentence without a full stop, as "a red circle moves left on a blue background".
    """
    place = rng.choice(PLACES).format(a=_with_article(rng.choice(BACKGROUNDS[scene.background].phrases)))
    form = PARTICIPLE if rng.random() < 0.25 else FINITE
    sprites = list(scene.sprites)
    rng.shuffle(sprites)
    clauses = [_write_clause(sprite, form, rng) for sprite in sprites]
    joined = rng.choice((" and ", " and ", " while ") if form == FINITE else (" and ",)).join(clauses)
    return f"{place}, {joined}" if rng.random() < 0.15 else f"{joined} {place}"


def write_plain_caption(scene: Scene) -> str:
    """The plainest caption of a scene: first phrases, finite verbs, the background last."""
    clauses = [
        f"{_with_article(f'{sprite.color} {sprite.shape}')} {MOTIONS[sprite.motion][0][FINITE]}"
        for sprite in scene.sprites
    ]
    background = BACKGROUNDS[scene.background].phrases[0]
    return f"{' and '.join(clauses)} {PLACES[0].format(a=_with_article(background))}"


def _write_clause(sprite: Sprite, form: int, rng: random.Random) -> str:
    return f"{_with_article(f'{sprite.color} {sprite.shape}')} {rng.choice(MOTIONS[sprite.motion])[form]}"


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
