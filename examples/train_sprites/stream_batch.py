"""Many streams of a loaded checkpoint at once, by its own recipe; the latents are those the engine would make.

Shape suffixes: B streams, C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from examples.train_sprites.chunk_forward import Streaming
from examples.train_sprites.chunk_rollout import Rollout, seeded_noise
from reelray.workers.models.registry import describe_checkpoint, open_checkpoint
from reelray.workers.models.wan.model import WanModel
from reelray.workers.models.wan.text_context import stack_contexts

FADE = 30
"""Latent frames after which the decoder has forgotten what lay before."""


class StreamBatch:
    """Makes streams by a checkpoint.

    Args:
        folder: The checkpoint; its recipe makes chunks over memory.
        device: Where it computes.

    Raises:
        ValueError: The checkpoint makes whole clips.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self.recipe = describe_checkpoint(folder).recipe
        rule, size = self.recipe.memory, self.recipe.chunking.latent_frames
        if rule is None or size is None:
            raise ValueError(f"{folder} makes whole clips; name a checkpoint that streams")
        model = open_checkpoint(folder, device=device)
        assert isinstance(model, WanModel)
        self.model, self.streaming = model, Streaming(rule=rule, size=size)

    def latents(self, prompts: Sequence[Sequence[str]], chunks: Sequence[int]) -> Tensor:
        """Clean latents [B, C, T, H, W] on the model's device; stream number N has seed N.

        Args:
            prompts: For each stretch of the streams, a prompt for each stream.
            chunks: Chunks of each stretch.
        """
        model, defaults = self.model, self.recipe.defaults
        height, width = model.facts.latent_size(defaults.width, defaults.height)
        shape = (model.facts.latent_channels, self.streaming.size, height, width)
        noise_of = seeded_noise(list(range(len(prompts[0]))), shape, torch.device(model.device))
        rollout = Rollout(transformer=model.parts.transformer, streaming=self.streaming)
        made = []
        for told, count in zip(prompts, chunks, strict=True):
            text = stack_contexts(model.encode_text(list(told)))
            for _ in range(count):
                clean, _ = rollout.denoise(self.recipe.schedule, text, noise_of)
                rollout.remember(clean, text)
                made.append(clean)
        return torch.cat(made, 2)

    def frames(self, latents_1CTHW: Tensor, first: int, count: int) -> NDArray[np.uint8]:
        """Pixel frames of some latent frames of a stream [F, H, W, 3].

        Args:
            latents_1CTHW: Of the whole stream.
            first: First latent frame that is wanted.
            count: How many.
        """
        begin, state = max(0, first - FADE), self.model.new_decode_state()
        pixels = self.model.decode(latents_1CTHW[:, :, begin : first + count], state).numpy()
        wanted = 4 * count - 3 * (first == 0)
        return np.ascontiguousarray(pixels[-wanted:])
