"""Batches of streams, chunk by chunk, as the engine makes each of them alone.

`tests/examples/test_chunk_rollout.py` holds the latents to the engine's. Shape suffixes: B streams, C channels,
T latent frames of a chunk, H/W latent height/width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from examples.train_sprites.chunk_attention import Bank, Seat, check_rule, find_pieces
from examples.train_sprites.chunk_forward import Rows, Streaming, evaluate_seats
from reelray.proto.recipe import Schedule
from reelray.workers.models.wan.text_context import TextContext
from reelray.workers.models.wan.transformer import WanTransformer
from reelray.workers.samplers.api import build_sampler
from reelray.workers.samplers.noise import INITIAL_STEP, draw_noise

NoiseOf = Callable[[int, int], Tensor]
"""Chunk and step (`INITIAL_STEP` for what a chunk begins with) to noise [B, C, T, H, W] on the device."""


@dataclass(kw_only=True)
class Rollout:
    """Streams in the making.

    Args:
        transformer: The weights.
        streaming: Chunks and memory.
        chunk: The next one.
        bank: What is remembered.

    Raises:
        ValueError: The memory rule cannot be rolled out here.
    """

    transformer: WanTransformer
    streaming: Streaming
    chunk: int = 0
    bank: Bank = field(default_factory=Bank)

    def __post_init__(self) -> None:
        check_rule(self.streaming.rule, self.streaming.size)

    @torch.no_grad()
    def denoise(self, schedule: Schedule, text: TextContext, noise_of: NoiseOf) -> tuple[Tensor, dict[float, Tensor]]:
        """Make the next chunk, without remembering it.

        Args:
            schedule: Of the video.
            text: A prompt for each stream.
            noise_of: What the samplers ask for.

        Returns:
            Clean latents, and the noisy latents that the network saw, by timestep.
        """
        sampler = build_sampler(schedule.of_chunk(self.chunk))
        latents_BCTHW, seen = noise_of(self.chunk, INITIAL_STEP), {}
        last = len(sampler.timesteps) - 1
        for step, timestep in enumerate(sampler.timesteps):
            seen[timestep] = latents_BCTHW
            flow_BCTHW = self._evaluate(Seat(self.chunk), latents_BCTHW, timestep, text)
            noise_BCTHW = noise_of(self.chunk, step) if sampler.needs_noise and step < last else None
            latents_BCTHW = sampler.step(flow_BCTHW, latents_BCTHW, step, noise_BCTHW)
        return latents_BCTHW, seen

    @torch.no_grad()
    def remember(self, clean_BCTHW: Tensor, text: TextContext) -> None:
        """Remember a chunk, and go on to the next one."""
        self._evaluate(Seat(self.chunk, clean=True), clean_BCTHW, 0.0, text)
        self.chunk += 1
        rule, size = self.streaming.rule, self.streaming.size
        self.bank.keep([piece.chunk for piece in find_pieces(rule, size, self.chunk)])

    def _evaluate(self, seat: Seat, latents_BCTHW: Tensor, timestep: float, text: TextContext) -> Tensor:
        timestep_B = torch.full((len(latents_BCTHW),), timestep, device=latents_BCTHW.device)
        rows = Rows(latents=latents_BCTHW, timesteps=timestep_B, text=text)
        return evaluate_seats(self.transformer, self.streaming, [seat], rows, bank=self.bank)


def seeded_noise(seeds: list[int], shape_CTHW: tuple[int, int, int, int], device: torch.device) -> NoiseOf:
    """The noise that requests of these seeds see."""
    channels, frames, height, width = shape_CTHW

    def noise_of(chunk: int, step: int) -> Tensor:
        rows = [
            draw_noise(
                seed=seed,
                chunk=chunk,
                step=step,
                channels=channels,
                latent_frames=frames,
                height=height,
                width=width,
            )
            for seed in seeds
        ]
        return torch.cat(rows).to(device)

    return noise_of
