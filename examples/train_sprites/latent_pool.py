"""A pool of latents and tokenised captions on the device, grown and renewed while training goes on.

Encoding a clip costs as much as training on it about seven times, so every clip is seen some forty times before a new
one takes its place; the run does not wait for a full pool at its start.
"""

import random
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from examples.train_sprites.captions import write_caption
from examples.train_sprites.draw import draw_batch
from examples.train_sprites.scenes import Mixture, Split, sample_scenes
from examples.train_sprites.sprites_model import WORD_SLOTS
from examples.train_sprites.train_vae import FRAMES
from reelray.workers.models.wan.vae import WanVae

WORDINGS = 4
LATENT_FRAMES = (FRAMES - 1) // 4 + 1


class LatentPool:
    """Latents and captions of clips.

    Args:
        vae: Makes latents.
        tokenizer: Makes ids.
        split: Which combinations of words.
        capacity: Clips kept at most.
        seed: Seed of scenes and wordings.
        mixture: How often there are two sprites, restless ones, and beige.
        chunk: Clips drawn and encoded at once.
    """

    def __init__(
        self,
        vae: WanVae,
        tokenizer: Any,
        *,
        split: Split,
        capacity: int,
        seed: int,
        mixture: Mixture | None = None,
        chunk: int = 16,
    ) -> None:
        if capacity % chunk:
            raise ValueError(f"capacity is {capacity}; it must be a multiple of {chunk}")
        self.vae, self.tokenizer, self.split, self.chunk = vae, tokenizer, split, chunk
        self.mixture = mixture or Mixture()
        self.device = vae.latents_mean.device
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = random.Random(seed)
        self.cursor = self.filled = 0
        shape = (capacity, 16, LATENT_FRAMES, 16, 24)
        self.latents = torch.empty(shape, dtype=torch.float16, device=self.device)
        self.ids = torch.zeros(capacity, WORDINGS, WORD_SLOTS, dtype=torch.long, device=self.device)

    def fill(self, clips: int) -> None:
        """Add clips until there are `clips`."""
        while self.filled < clips:
            self.renew()

    @torch.no_grad()
    def renew(self) -> None:
        """Add one chunk, in place of the oldest one when the pool is full."""
        scenes = sample_scenes(self.chunk, self.generator, split=self.split, **asdict(self.mixture))
        video = draw_batch(scenes, range(FRAMES), device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            mean = self.vae.encode_whole(video)[0]
        texts = [write_caption(scenes.describe(i), self.rng) for i in range(self.chunk) for _ in range(WORDINGS)]
        ids = self.tokenizer(texts, padding="max_length", max_length=WORD_SLOTS, return_tensors="pt").input_ids
        place = slice(self.cursor, self.cursor + self.chunk)
        self.latents[place] = self.vae.normalise(mean.float()).half()
        self.ids[place] = ids.view(self.chunk, WORDINGS, WORD_SLOTS).to(self.device)
        self.cursor = (self.cursor + self.chunk) % len(self.latents)
        self.filled = min(self.filled + self.chunk, len(self.latents))

    def sample(self, count: int, frames: int = LATENT_FRAMES) -> tuple[Tensor, Tensor]:
        """Random clips, cut after `frames` latent frames: float16 [count, 16, frames, H, W], ids [count, WORD_SLOTS].

        A causal encoder has no need of what comes later, so the beginning of a clip is a clip.
        """
        index = torch.randint(self.filled, (count,), device=self.device)
        wording = torch.randint(WORDINGS, (count,), device=self.device)
        return self.latents[:, :, :frames][index], self.ids[index, wording]
