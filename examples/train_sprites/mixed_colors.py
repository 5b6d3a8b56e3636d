"""Sprites of a colour between two, of which captions say both or nothing.

Taught on 384 named combinations alone, the model takes a colour and a motion for a hint at the shape: of the squares no
purple one spins, so one that is asked for becomes half a star. Squares spin in every colour in between, though, and a
"pink purple square" tells that its words are to be taken one by one.

B scenes, K sprites, N names.
"""

from dataclasses import replace

import torch
from torch import Tensor

from examples.train_sprites.scenes import SLOTS, SceneBatch, is_held_out, paints
from reelray.quality.sprites.vocabulary import BACKGROUNDS, CLASH_DISTANCE, COLORS, MOTIONS, SHAPES

LEAST, MOST = 0.2, 0.8
TOLD = 0.6
BLENDS = 9


def mix_colors(scenes: SceneBatch, share: float, generator: torch.Generator) -> SceneBatch:
    """Paint some sprites with a mixture of their colour and another one, and tell of both or of none.

    A mixture is told apart from its background, and the colour that it is nearest to makes no held-out combination
    with its shape and motion; where the first draw is not so, the sprite keeps its own colour, untold.

    Args:
        scenes: Of the training split.
        share: Share of sprites.
        generator: CPU generator.
    """
    batch = len(scenes)
    chosen_BK = torch.rand(batch, SLOTS, generator=generator) < share
    other_BK = torch.randint(len(COLORS), (batch, SLOTS), generator=generator)
    weight_BK = LEAST + (MOST - LEAST) * torch.rand(batch, SLOTS, generator=generator)
    mixed_BK3 = torch.lerp(paints()[scenes.color_BK], paints()[other_BK], weight_BK[..., None])
    nearest_BK = torch.cdist(mixed_BK3, paints()).argmin(-1)
    is_new_BK = _held_out()[nearest_BK, scenes.shape_BK, scenes.motion_BK]
    mixes_BK = chosen_BK & ~is_new_BK & (other_BK != scenes.color_BK) & _stands_out(mixed_BK3, scenes.background_B)
    is_told_BK = mixes_BK & (torch.rand(batch, SLOTS, generator=generator) < TOLD)
    both_BK2 = torch.stack([scenes.color_BK, other_BK], -1)
    both_BK2 = torch.where((weight_BK > 0.5)[..., None], both_BK2.flip(-1), both_BK2)  # the stronger one first
    other_words_BK2 = torch.where(is_told_BK[..., None], both_BK2, -1)
    return replace(
        scenes,
        paint_BK3=torch.where(mixes_BK[..., None], mixed_BK3, scenes.paint_BK3),
        told_BK2=torch.where(chosen_BK[..., None], other_words_BK2, scenes.told_BK2),
    )


def _held_out() -> Tensor:
    """Whether a combination of colour, shape and motion is held out."""
    table = [[[is_held_out(color, shape, motion) for motion in MOTIONS] for shape in SHAPES] for color in COLORS]
    return torch.tensor(table)


def _stands_out(paint_BK3: Tensor, background_B: Tensor) -> Tensor:
    """Whether paint is far from every part of the gradient behind it [B, K]."""
    ends_N23 = torch.tensor([(b.top, b.bottom) for b in BACKGROUNDS.values()], dtype=torch.float32)
    top_B3, bottom_B3 = ends_N23[background_B].unbind(1)
    blend_B93 = torch.lerp(top_B3[:, None], bottom_B3[:, None], torch.linspace(0, 1, BLENDS)[None, :, None])
    return torch.cdist(paint_BK3, blend_B93).amin(-1) >= CLASH_DISTANCE
