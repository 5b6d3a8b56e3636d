"""The loss of the transformer: flow matching at noise levels spread evenly over a batch.

Shape suffixes: B batch, K text slots, C channels, T latent frames, H/W latent height/width.
"""

import torch
from torch import Tensor, nn

from examples.train_sprites.sprites_model import SpritesModel

# Share of the batch by shift. Whole clips are so redundant that a caption is all but decided at a noise level of 0.97.
SHIFTS = ((0.75, 8.0), (0.25, 3.0))
# A trained model's loss at some noise levels. Above 0.95 it is nearly all chance (where a sprite starts, its size), and
# would drown what decides outlines and colours between 0.5 and 0.95, where it is thirty times smaller.
LEVELS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 1.0)
LOSSES = (1.0, 0.086, 0.023, 0.013, 0.0114, 0.015, 0.035, 0.085, 0.165, 0.215, 0.28, 0.32)
EASE = 0.1
FIRST_FRAME = 3.0


def flow_error(
    model: SpritesModel, ids_BK: Tensor, latents_BCTHW: Tensor, noise_BCTHW: Tensor, sigma_B: Tensor
) -> Tensor:
    """Squared error [B, T] of the predicted flow, noise minus data, text encoder included."""
    latents_BCTHW = latents_BCTHW.float()
    sigma = sigma_B.view(-1, 1, 1, 1, 1)
    noisy_BCTHW = torch.lerp(latents_BCTHW, noise_BCTHW, sigma)
    prediction_BCTHW: Tensor = model(model.embed(ids_BK), noisy_BCTHW, 1000 * sigma_B)
    return (prediction_BCTHW - (noise_BCTHW - latents_BCTHW)).square().mean(dim=(1, 3, 4))


def training_loss(
    model: nn.Module, ids_BK: Tensor, empty_1K: Tensor, latents_BCTHW: Tensor, dropout: float
) -> tuple[Tensor, Tensor]:
    """Weighted loss of one batch and its plain squared error, with everything random drawn inside: one graph.

    Every noise level counts in proportion to how far its error can be brought down, and the first latent frame, one of
    21 and the only one that holds a single picture, three times.
    """
    assert isinstance(model, SpritesModel)
    batch, device = len(ids_BK), ids_BK.device
    dropped_B1 = torch.rand(batch, 1, device=device) < dropout
    noise_BCTHW = torch.randn_like(latents_BCTHW, dtype=torch.float32)
    sigma_B = draw_sigmas(batch, device)
    ids_BK = torch.where(dropped_B1, empty_1K, ids_BK)
    error_BT = flow_error(model, ids_BK, latents_BCTHW, noise_BCTHW, sigma_B)
    frames = error_BT.shape[1]
    first_B, rest_B = error_BT[:, 0], error_BT[:, 1:].sum(1)
    error_B = (FIRST_FRAME * first_B + rest_B) / (FIRST_FRAME + frames - 1)
    return (error_B * weigh(sigma_B)).mean(), error_BT.detach().mean()


def weigh(sigma_B: Tensor) -> Tensor:
    """One over the loss to be expected at a noise level, about 1 in the mean over `draw_sigmas`."""
    levels, losses = sigma_B.new_tensor(LEVELS), sigma_B.new_tensor(LOSSES)
    right_B = torch.bucketize(sigma_B, levels).clamp(1, len(LEVELS) - 1)
    left_B = right_B - 1
    share_B = (sigma_B - levels[left_B]) / (levels[right_B] - levels[left_B])
    return 0.14 / (torch.lerp(losses[left_B], losses[right_B], share_B) + EASE)


def draw_sigmas(count: int, device: torch.device) -> Tensor:
    """Noise levels, one from each of `count` equal slices of their distribution, which calms the gradient."""
    slices_B = (torch.arange(count, device=device) + torch.rand(count, device=device)) / count
    sigma_B = torch.zeros_like(slices_B)
    begin = 0.0
    for share, shift in SHIFTS:
        level_B = (slices_B - begin) / share
        inside_B = (level_B >= 0) & (level_B < 1)
        sigma_B = torch.where(inside_B, shift * level_B / (1 + (shift - 1) * level_B), sigma_B)
        begin += share
    return sigma_B


@torch.no_grad()
def measure_loss(model: SpritesModel, ids_BK: Tensor, latents_BCTHW: Tensor) -> dict[str, float]:
    """Loss at fixed noise levels with fixed noise."""
    device = latents_BCTHW.device
    generator = torch.Generator(device).manual_seed(1)
    losses = {}
    for sigma in (0.3, 0.5, 0.7, 0.8, 0.9, 0.97, 0.99, 0.999):
        noise = torch.randn(latents_BCTHW.shape, generator=generator, device=device)
        with torch.autocast(device.type, torch.bfloat16):
            error_BT = flow_error(model, ids_BK, latents_BCTHW, noise, torch.full((len(noise),), sigma, device=device))
        losses[f"held_out_{sigma}"] = round(float(error_BT.mean()), 5)
    return losses
