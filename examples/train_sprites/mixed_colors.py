"""Sprites between two colours, which captions do not name.

Taught on 384 named combinations alone, the model takes a colour and a motion for a hint at the shape: of the squares no
purple one spins, so one that is asked for becomes half a star. Squares spin in every colour in between, though.

B scenes, K sprites, N names.
"""

from dataclasses import replace

import torch
from torch import Tensor

from examples.train_sprites.scenes import SLOTS, SceneBatch, is_held_out, paints
from reelray.quality.sprites.vocabulary import BACKGROUNDS, CLASH_DISTANCE, COLORS, MOTIONS, SHAPES

LEAST, MOST = 0.2, 0.8
BLENDS = 9


def mix_colors(scenes: SceneBatch, share: float, generator: torch.Generator) -> SceneBatch:
    """Paint some sprites with a mixture of their colour and another one, and leave their colour unnamed.

    A mixture is told apart from its background, and the colour that it is nearest to makes no held-out combination
    with its shape and motion; where the first draw is not so, the sprite keeps its own colour, unnamed.

    Args:
        scenes: Of the training split.
        share: Share of sprites.
        generator: CPU generator.
    """
    batch = len(scenes)
    unnamed_BK = torch.rand(batch, SLOTS, generator=generator) < share
    other_BK = torch.randint(len(COLORS), (batch, SLOTS), generator=generator)
    weight_BK1 = LEAST + (MOST - LEAST) * torch.rand(batch, SLOTS, 1, generator=generator)
    mixed_BK3 = torch.lerp(paints()[scenes.color_BK], paints()[other_BK], weight_BK1)
    nearest_BK = torch.cdist(mixed_BK3, paints()).argmin(-1)
    is_new_BK = _held_out()[nearest_BK, scenes.shape_BK, scenes.motion_BK]
    mixes_BK = unnamed_BK & ~is_new_BK & _stands_out(mixed_BK3, scenes.background_B)
    return replace(
        scenes,
        paint_BK3=torch.where(mixes_BK[..., None], mixed_BK3, scenes.paint_BK3),
        is_named_BK=scenes.is_named_BK & ~unnamed_BK,
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
