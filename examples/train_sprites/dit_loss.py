"""The loss of the transformer: flow matching at noise levels spread evenly over a batch.

Shape suffixes: B batch, K text slots, C channels, T latent frames, H/W latent height/width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.train_sprites.sprites_model import SpritesModel

# Share of the batch by shift. Whole clips are so redundant that a caption is all but decided at a noise level of 0.97:
# the loss with a caption and without differ by 0.37 at 0.999, 0.05 at 0.99 and 0.03 at 0.9 (README.md of this folder).
SHIFTS = ((0.75, 20.0), (0.25, 3.0))


def flow_loss(
    model: SpritesModel, ids_BK: Tensor, latents_BCTHW: Tensor, noise_BCTHW: Tensor, sigma_B: Tensor
) -> Tensor:
    """Squared error of the predicted flow, noise minus data, text encoder included."""
    latents_BCTHW = latents_BCTHW.float()
    sigma = sigma_B.view(-1, 1, 1, 1, 1)
    noisy_BCTHW = torch.lerp(latents_BCTHW, noise_BCTHW, sigma)
    prediction_BCTHW = model(model.embed(ids_BK), noisy_BCTHW, 1000 * sigma_B)
    return F.mse_loss(prediction_BCTHW, noise_BCTHW - latents_BCTHW)


def training_loss(model: nn.Module, ids_BK: Tensor, empty_1K: Tensor, latents_BCTHW: Tensor, dropout: float) -> Tensor:
    """Loss of one batch, with everything random drawn inside: one graph, no noise tensor kept for it."""
    assert isinstance(model, SpritesModel)
    batch, device = len(ids_BK), ids_BK.device
    dropped_B1 = torch.rand(batch, 1, device=device) < dropout
    noise_BCTHW = torch.randn_like(latents_BCTHW, dtype=torch.float32)
    return flow_loss(
        model, torch.where(dropped_B1, empty_1K, ids_BK), latents_BCTHW, noise_BCTHW, draw_sigmas(batch, device)
    )


def draw_sigmas(count: int, device: torch.device) -> Tensor:
    """Noise levels, one from each of `count` equal slices of their distribution, which calms the gradient.

    Most lie where a sampler decides which sprite has which colour, the others where it draws the picture.
    """
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
    for sigma in (0.3, 0.9, 0.97, 0.99, 0.999):
        noise = torch.randn(latents_BCTHW.shape, generator=generator, device=device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = flow_loss(model, ids_BK, latents_BCTHW, noise, torch.full((len(noise),), sigma, device=device))
        losses[f"held_out_{sigma}"] = round(float(loss), 5)
    return losses
