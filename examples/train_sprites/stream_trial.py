"""Streams of held-out captions from a model in training, judged by the detector.

Shape suffixes: B streams, K text slots, C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from examples.train_sprites.causal_settings import STREAMING
from examples.train_sprites.chunk_rollout import Rollout, seeded_noise
from examples.train_sprites.draw import to_uint8
from examples.train_sprites.judging import Judge, count_right
from examples.train_sprites.scenes import sample_held_out_captions
from examples.train_sprites.sprites_model import WORD_SLOTS
from examples.train_sprites.window_pool import WINDOW_CHUNKS
from reelray.proto.recipe import Schedule
from reelray.workers.models.wan.text_context import TextContext
from reelray.workers.models.wan.transformer import WanTransformer
from reelray.workers.models.wan.vae import WanVae

if TYPE_CHECKING:
    from reelray.quality.sprites.scene import Scene

DECODED = 8
SEED = 2


class StreamTrial:
    """Held-out captions with their noise, the same at every call.

    Args:
        vae: Decodes.
        tokenizer: Makes ids.
        captions: How many.
    """

    def __init__(self, vae: WanVae, tokenizer: Any, *, captions: int) -> None:
        pairs = sample_held_out_captions(captions, SEED)
        self.vae, self.device = vae, vae.latents_mean.device
        self.scenes: list[Scene] = [scene for _, scene in pairs]
        texts = [caption for caption, _ in pairs]
        ids: Tensor = tokenizer(texts, padding="max_length", max_length=WORD_SLOTS, return_tensors="pt").input_ids
        self.ids_BK = ids.to(self.device)

    def judge(
        self, transformer: WanTransformer, text: TextContext, schedule: Schedule, judge: Judge
    ) -> dict[str, float]:
        """Shares of right streams of seven chunks.

        Args:
            transformer: Makes them.
            text: Context of `ids_BK`.
            schedule: Step lists.
            judge: Runs the detector.
        """
        return count_right(judge.submit_all(self._clips(transformer, text, schedule), self.scenes))

    def _clips(self, transformer: WanTransformer, text: TextContext, schedule: Schedule) -> Iterator[NDArray[np.uint8]]:
        rollout = Rollout(transformer=transformer, streaming=STREAMING)
        noise_of = seeded_noise(list(range(len(self.scenes))), (16, STREAMING.size, 16, 24), self.device)
        made = []
        for _ in range(WINDOW_CHUNKS):
            clean, _ = rollout.denoise(schedule, text, noise_of)
            rollout.remember(clean, text)
            made.append(clean)
        for part in torch.split(torch.cat(made, 2), DECODED):
            with torch.no_grad():
                video = self.vae.decode_whole(self.vae.denormalise(part))
            frames: NDArray[np.uint8] = to_uint8(video.float().clamp(-1, 1)).cpu().numpy()
            yield from frames
