"""What the transformer learns of windows: to denoise every chunk over the clean chunks before it.

Shape suffixes: B clips, J chunks of a window, R rows (seats x B, seats first), K text slots, C channels, T latent
frames of a chunk, H/W latent height/width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from examples.train_sprites.chunk_attention import Seat
from examples.train_sprites.chunk_forward import Rows, Streaming, evaluate_seats, select_rows
from examples.train_sprites.dit_loss import FIRST_FRAME, weigh
from examples.train_sprites.sprites_model import SpritesModel
from examples.train_sprites.window_pool import Windows

# A chunk of 3 latent frames shows a seventh of what 21 show, so that a caption is decided at lower noise levels.
SHIFT, WHOLE_CLIP_FRAMES = 4.0, 21
SERVED_SHARE = 0.35
PLAIN_LEVEL = 0.7
"""With a past nothing is left to chance, whatever the noise level: errors are those of a whole clip at this one."""
FRESH_WEIGHT = 2.5
"""One chunk in seven is the first one, and all others follow what it shows."""
NOISE, BLUR, GAIN = 0.15, 0.5, 0.04
DISTURBED_SHARE = 0.6


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """One forward's inputs and what should come of it.

    Args:
        clean: What is remembered [B, J - 1, C, T, H, W].
        noisy: What is to be denoised [B, J, C, T, H, W].
        timesteps: Of the noisy chunks [B, J].
        flow: Wanted prediction, shape of `noisy`.
        weight: Of each noisy chunk [B, J].
    """

    clean: Tensor
    noisy: Tensor
    timesteps: Tensor
    flow: Tensor
    weight: Tensor


def predict(model: SpritesModel, streaming: Streaming, ids_B2K: Tensor, switch_B: Tensor, lesson: Lesson) -> Tensor:
    """Predict the flow of all noisy chunks [B, J, C, T, H, W], float32."""
    batch, chunks = lesson.timesteps.shape
    places = [*range(chunks - 1), *range(chunks)]
    seats = [Seat(place, clean=number < chunks - 1) for number, place in enumerate(places)]
    latents = torch.cat([lesson.clean, lesson.noisy], 1).transpose(0, 1).flatten(0, 1)
    timesteps = F.pad(lesson.timesteps, (chunks - 1, 0)).T.flatten()
    place_S1 = torch.tensor(places, device=switch_B.device)[:, None]
    index_R = (2 * torch.arange(batch, device=switch_B.device) + (place_S1 >= switch_B)).flatten()
    text = select_rows(model.read(model.embed(ids_B2K.flatten(0, 1))), index_R)
    rows = Rows(latents=latents, timesteps=timesteps, text=text)
    flow_R = evaluate_seats(model.transformer, streaming, seats, rows)
    return torch.unflatten(flow_R[batch * (chunks - 1) :], 0, (chunks, batch)).transpose(0, 1)


def weighted_error(flow: Tensor, lesson: Lesson) -> tuple[Tensor, Tensor]:
    """Weighted loss, and the plain squared error of every chunk [B, J]."""
    error_BJT = (flow - lesson.flow).square().mean(dim=(2, 4, 5))
    share_JT = torch.ones_like(error_BJT[0])
    share_JT[0, 0] = FIRST_FRAME  # the only latent frame that holds a single picture
    error_BJ = (error_BJT * (share_JT / share_JT.sum(-1, keepdim=True))).sum(-1)
    return (error_BJ * lesson.weight).mean(), error_BJ.detach()


def make_lesson(windows: Windows, clean: Tensor, sigma_BJ: Tensor) -> Lesson:
    """Noise the chunks of windows; the flow leads back to them.

    Args:
        windows: The truth.
        clean: What is remembered of it.
        sigma_BJ: Noise levels.
    """
    noise = torch.randn_like(windows.latents)
    level = sigma_BJ[..., None, None, None, None]
    return Lesson(
        clean=clean,
        noisy=torch.lerp(windows.latents, noise, level),
        timesteps=1000 * sigma_BJ,
        flow=noise - windows.latents,
        weight=weigh_chunks(sigma_BJ, windows.is_fresh) * windows.is_valid,
    )


def draw_levels(batch: int, chunks: int, served: Tensor, device: torch.device) -> Tensor:
    """Noise levels [B, J]: spread evenly, and a share of them at those that are served.

    Args:
        batch: Clips.
        chunks: Of each.
        served: Noise levels of the served steps.
        device: Where they go.
    """
    count = batch * chunks
    slices = (torch.randperm(count, device=device) + torch.rand(count, device=device)) / count
    sigma = SHIFT * slices / (1 + (SHIFT - 1) * slices)
    chosen = served[torch.randint(len(served), (count,), device=device)]
    sigma = torch.where(torch.rand(count, device=device) < SERVED_SHARE, chosen, sigma)
    return sigma.view(batch, chunks)


def weigh_chunks(sigma_BJ: Tensor, is_fresh_BJ: Tensor) -> Tensor:
    """One over the loss to be expected, and more for fresh chunks.

    A fresh chunk is judged as a whole clip at the noise level where that shows as much.
    """
    ratio = sigma_BJ / (1 - sigma_BJ).clamp(min=1e-6) * (WHOLE_CLIP_FRAMES / 3) ** 0.5
    whole_BJ = (ratio / (1 + ratio)).clamp(max=1.0)
    level_BJ = torch.where(is_fresh_BJ, whole_BJ, sigma_BJ.clamp(max=PLAIN_LEVEL))
    weight_BJ = weigh(level_BJ.flatten()).view_as(level_BJ)
    return torch.where(is_fresh_BJ, FRESH_WEIGHT * weight_BJ, weight_BJ)


def disturb(chunks: Tensor) -> Tensor:
    """Make clean chunks of most clips a little wrong, each in its own way, so that memory is trusted with care.

    Args:
        chunks: [B, J, C, T, H, W].
    """
    batch, count = chunks.shape[:2]

    def draw() -> Tensor:
        return torch.rand(batch, count, 1, 1, 1, 1, device=chunks.device)

    pictures = chunks.flatten(0, 1).transpose(1, 2).flatten(0, 1)
    soft = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    soft = torch.unflatten(soft, 0, (batch, count, -1)).transpose(2, 3)
    wrong = torch.lerp(chunks, soft, BLUR * draw().square())
    wrong = wrong * (1 + GAIN * torch.randn_like(wrong[..., :1, :1, :1]))
    wrong = wrong + NOISE * draw().square() * torch.randn_like(wrong)
    chosen = torch.rand(batch, 1, 1, 1, 1, 1, device=chunks.device) < DISTURBED_SHARE
    return torch.where(chosen, wrong, chunks)


def recall_own(windows: Windows, clean: Tensor, lesson: Lesson, flow: Tensor) -> Tensor:
    """What the model itself has made of the chunks, to be remembered in place of the truth.

    A chunk that shows something new is kept as it was where the noise hid what that is.

    Args:
        windows: The truth.
        clean: What was remembered.
        lesson: What the model was asked.
        flow: What it said.

    Returns:
        Clean chunks, shape of `clean`.
    """
    sigma_BJ = (lesson.timesteps / 1000)[..., None, None, None, None]
    own = (lesson.noisy - sigma_BJ * flow.detach())[:, :-1]
    hidden_BJ = windows.is_fresh & (lesson.timesteps > 1000 * PLAIN_LEVEL)
    kept_BJ = (hidden_BJ | ~windows.is_valid)[:, :-1]
    return torch.where(kept_BJ[..., None, None, None, None], clean, own)
