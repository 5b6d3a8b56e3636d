"""Teach the text encoder which colour, shape and motion belong to one sprite, before anything is drawn.

Noise hides from the transformer for thousands of steps which of two sprites a word belongs to. Read off the words
alone it takes seconds. Shape suffixes: B batch, K text slots, A attributes.
"""

import math
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.train_sprites.captions import write_caption
from examples.train_sprites.scenes import Split, sample_scenes
from examples.train_sprites.sprites_model import WORD_SLOTS, SpritesModel
from reelray.quality.sprites.vocabulary import BACKGROUNDS, COLORS, MOTIONS, SHAPES

SIZES = (len(COLORS), len(SHAPES), len(MOTIONS), len(BACKGROUNDS))
NAMES = ("color", "shape", "motion", "background")
CAPTIONS, CHECKED, BATCH, WARMUP = 20000, 2000, 256, 50
PAIR_SHARE = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Captions:
    """Tokenised captions and what they say of every sprite.

    Args:
        ids: Token ids [B, K].
        answers: Attributes [B, 2, A] of both sprites, in the order of `NAMES`.
        is_told: Whether slot K tells of sprite 0 or 1 [B, 2, K]: its colour and the shape behind it.
    """

    ids: Tensor
    answers: Tensor
    is_told: Tensor


def read_captions(tokenizer: Any, count: int, split: Split, seed: int, device: torch.device) -> Captions:
    """Write `count` captions and find the words of each sprite.

    Two sprites differ in colour, and no sprite has the colour of its background: a colour names one sprite or none.
    """
    scenes = sample_scenes(count, torch.Generator().manual_seed(seed), split=split, pair_share=PAIR_SHARE)
    rng = random.Random(seed)
    texts = [write_caption(scenes.describe(index), rng) for index in range(count)]
    ids_BK = tokenizer(texts, padding="max_length", max_length=WORD_SLOTS, return_tensors="pt").input_ids
    colors = torch.tensor(tokenizer.convert_tokens_to_ids(list(COLORS)))
    is_color_B2K = (ids_BK[:, None] == colors[scenes.color_BK][..., None]) & scenes.present_BK[..., None]
    is_shape_B2K = is_color_B2K.roll(1, -1)
    background_B2 = scenes.background_B[:, None].expand(-1, 2)
    answers_B2A = torch.stack([scenes.color_BK, scenes.shape_BK, scenes.motion_BK, background_B2], -1)
    return Captions(
        ids=ids_BK.to(device), answers=answers_B2A.to(device), is_told=(is_color_B2K | is_shape_B2K).to(device)
    )


def teach_binding(model: SpritesModel, tokenizer: Any, *, steps: int, rate: float, seed: int) -> dict[str, float]:
    """Train the text encoder until every colour and shape word knows all of its sprite; the readout is thrown away.

    Args:
        model: Its text encoder is trained in place.
        tokenizer: Makes ids.
        steps: Of AdamW, on `BATCH` captions each.
        rate: Peak learning rate.
        seed: Of captions and readout.

    Returns:
        Share of words that know each attribute, on held-out captions.
    """
    device = model.bias.device
    known = read_captions(tokenizer, CAPTIONS, "train", seed, device)
    unseen = read_captions(tokenizer, CHECKED, "held_out", seed + 1, device)
    encoder = list(model.text_encoder.parameters())
    readout = nn.Linear(model.text_encoder.config.d_model, sum(SIZES), device=device)
    optimiser = torch.optim.AdamW([*encoder, *readout.parameters()], betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        share = min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = share * rate
        chosen = torch.randint(CAPTIONS, (BATCH,), generator=generator).to(device)
        batch = Captions(ids=known.ids[chosen], answers=known.answers[chosen], is_told=known.is_told[chosen])
        parts, answers_NA = _answer(model, readout, batch)
        loss = sum((F.cross_entropy(part, answers_NA[:, a]) for a, part in enumerate(parts)), parts[0].new_zeros(()))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([*encoder, *readout.parameters()], 1.0)
        optimiser.step()
    optimiser.zero_grad()
    with torch.no_grad():
        parts, answers_NA = _answer(model, readout, unseen)
    return {
        name: round(float((part.argmax(-1) == answers_NA[:, a]).float().mean()), 4)
        for a, (name, part) in enumerate(zip(NAMES, parts, strict=True))
    }


def _answer(model: SpritesModel, readout: nn.Linear, captions: Captions) -> tuple[tuple[Tensor, ...], Tensor]:
    """Scores of every attribute, and the right answers, for all words that tell of a sprite."""
    place = captions.is_told.nonzero()
    words_NC = model.embed(captions.ids)[place[:, 0], place[:, 2]]
    return readout(words_NC).split(SIZES, -1), captions.answers[place[:, 0], place[:, 1]]
