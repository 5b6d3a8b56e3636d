"""Clips of held-out captions from a model in training, judged by the detector."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from examples.train_sprites.draw import to_uint8
from examples.train_sprites.latent_pool import LATENT_FRAMES
from examples.train_sprites.sampling import draw_noises, predict_in_training, sample
from examples.train_sprites.scenes import sample_held_out_captions
from examples.train_sprites.sprites_model import WORD_SLOTS, SpritesModel
from reelray.proto.recipe import Guidance, Schedule, Solver
from reelray.workers.models.wan.vae import WanVae

if TYPE_CHECKING:
    from reelray.quality.sprites.scene import Scene

STEPS, SHIFT, GUIDANCE = 20, 12.0, 2.0
ROWS, DECODED = 64, 8


class Trial:
    """Held-out captions with the noise of their clips, the same at every call.

    Args:
        vae: Decodes.
        tokenizer: Makes ids.
        captions: How many.
        seed: Which.
    """

    def __init__(self, vae: WanVae, tokenizer: Any, *, captions: int, seed: int = 0) -> None:
        pairs = sample_held_out_captions(captions, seed)
        self.vae, self.device = vae, vae.latents_mean.device
        self.scenes: list[Scene] = [scene for _, scene in pairs]
        self.ids_BK = self._tokenize(tokenizer, [caption for caption, _ in pairs])
        self.empty_1K = self._tokenize(tokenizer, [""])
        self.noise = draw_noises(range(captions), (16, LATENT_FRAMES, 16, 24))

    def clips(
        self, model: SpritesModel, *, shift: float = SHIFT, guidance: float = GUIDANCE, steps: int = STEPS
    ) -> Iterator[NDArray[np.uint8]]:
        """One clip after the other, uint8 [T, H, W, 3]; sampled and decoded in batches."""
        schedule = Schedule(solver=Solver.UNIPC, steps=steps, shift=shift)
        for ids_BK, noise in zip(torch.split(self.ids_BK, ROWS), torch.split(self.noise, ROWS), strict=True):
            predict = predict_in_training(model, ids_BK, self.empty_1K)
            latents = sample(predict, noise.to(self.device), schedule, Guidance(scale=guidance))
            for part in torch.split(latents, DECODED):
                yield from self._decode(part)

    @torch.no_grad()
    def _decode(self, latents_BCTHW: Tensor) -> NDArray[np.uint8]:
        with torch.autocast(self.device.type, torch.bfloat16):
            video = self.vae.decode_whole(self.vae.denormalise(latents_BCTHW))
        frames: NDArray[np.uint8] = to_uint8(video.float().clamp(-1, 1)).cpu().numpy()
        return frames

    def _tokenize(self, tokenizer: Any, texts: list[str]) -> Tensor:
        ids: Tensor = tokenizer(texts, padding="max_length", max_length=WORD_SLOTS, return_tensors="pt").input_ids
        return ids.to(self.device)
