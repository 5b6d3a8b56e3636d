"""Many clips at once through the engine's own samplers, noise and guidance.

The engine denoises one request after the other; here the rows of one batch are different requests. Everything but the
batch is the engine's: seeds, solver, mix of branches. `tests/examples/test_sampling.py` holds the latents to the
engine's within 1e-4. Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from examples.train_sprites.sprites_model import SpritesModel
from reelray.proto.recipe import Guidance, Schedule
from reelray.workers.models.api import VideoModel
from reelray.workers.samplers.api import build_sampler
from reelray.workers.samplers.guidance import mix_branches, plan_weights
from reelray.workers.samplers.noise import INITIAL_STEP, draw_noise

Predict = Callable[[Tensor, float, bool], Tensor]
"""Latents, timestep and whether with caption, to the network's prediction."""


def draw_noises(seeds: Sequence[int], shape_CTHW: tuple[int, int, int, int]) -> Tensor:
    """The noise that requests of these seeds start from; float32 [B, C, T, H, W] on the CPU."""
    channels, frames, height, width = shape_CTHW
    rows = [
        draw_noise(
            seed=seed,
            chunk=0,
            step=INITIAL_STEP,
            channels=channels,
            latent_frames=frames,
            height=height,
            width=width,
        )
        for seed in seeds
    ]
    return torch.cat(rows)


@torch.no_grad()
def sample(predict: Predict, noise_BCTHW: Tensor, schedule: Schedule, guidance: Guidance) -> Tensor:
    """Move a batch from noise to clean latents.

    Args:
        predict: The network; called twice a step where guidance acts.
        noise_BCTHW: Float32, on the network's device.
        schedule: Of a deterministic solver.
        guidance: Weight of the caption.

    Raises:
        ValueError: The solver wants noise at every step.
    """
    sampler = build_sampler(schedule)
    if sampler.needs_noise:
        raise ValueError(f"solver is {schedule.solver}; batches are sampled by a deterministic one, as unipc or euler")
    latents_BCTHW = noise_BCTHW
    for step, weight in enumerate(plan_weights(guidance, sampler.sigmas)):
        prediction = predict(latents_BCTHW, sampler.timesteps[step], True)
        if weight != 1.0:
            bare = predict(latents_BCTHW, sampler.timesteps[step], False)
            prediction = mix_branches(prediction, bare, weight)
        latents_BCTHW = sampler.step(prediction, latents_BCTHW, step)
    return latents_BCTHW


def predict_in_training(model: SpritesModel, ids_BK: Tensor, empty_1K: Tensor) -> Predict:
    """Predict by a model in training, in bfloat16, one batch for one set of captions."""
    device = ids_BK.device

    @torch.no_grad()
    def predict(latents_BCTHW: Tensor, timestep: float, with_caption: bool) -> Tensor:
        ids = ids_BK if with_caption else empty_1K.expand_as(ids_BK)
        timestep_B = torch.full((len(ids),), timestep, device=device)
        with torch.autocast(device.type, torch.bfloat16):
            prediction: Tensor = model(model.embed(ids), latents_BCTHW, timestep_B)
        return prediction

    return predict


def predict_in_service(model: VideoModel, prompts: Sequence[str], negative_prompt: str = "") -> Predict:
    """Predict by a loaded checkpoint, as the engine calls it, for one batch of prompts."""
    texts: dict[bool, list[Any]] = {
        True: model.encode_text(prompts),
        False: model.encode_text([negative_prompt]) * len(prompts),
    }

    def predict(latents_BCTHW: Tensor, timestep: float, with_caption: bool) -> Tensor:
        batch, _, frames, _, _ = latents_BCTHW.shape
        timestep_BT = torch.full((batch, frames), timestep, dtype=torch.float32, device=model.device)
        positions_BT = torch.arange(frames, device=model.device).expand(batch, -1)
        return model.denoise(latents_BCTHW, timestep_BT, texts[with_caption], positions_BT=positions_BT)

    return predict


def sample_requests(
    model: VideoModel,
    prompts: Sequence[str],
    schedule: Schedule,
    guidance: Guidance,
    shape_CTHW: tuple[int, int, int, int],
    *,
    negative_prompt: str = "",
    batch: int = 16,
) -> Iterator[Tensor]:
    """Clean latents [1, C, T, H, W] of request after request; prompt number N has seed N."""
    for first in range(0, len(prompts), batch):
        numbers = range(first, min(first + batch, len(prompts)))
        predict = predict_in_service(model, [prompts[number] for number in numbers], negative_prompt)
        noise = draw_noises(numbers, shape_CTHW).to(model.device)
        yield from torch.split(sample(predict, noise, schedule, guidance), 1)
