"""Train the sprites VAE from scratch: crops first, whole clips last.

    python -m examples.train_sprites.train_vae --out runs/vae

Four stages share one optimiser schedule. Short clips alone would teach a causal network to lean on its zero padding
(see the README of this folder), so the last two stages see all 81 frames.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from examples.train_sprites.draw import Crop, draw_batch, frame_windows
from examples.train_sprites.scenes import sample_scenes
from examples.train_sprites.training import Optimisation, Trainer
from reelray.workers.models.wan.vae import WanVae, WanVaeConfig

FRAMES, HEIGHT, WIDTH = 81, 128, 192
KL_WEIGHT = 2e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stretch of training on one shape.

    Args:
        name: Shown in the log.
        steps: Optimiser steps.
        batch: Clips per step.
        frames: Frames per clip, a window at a random time.
        crop: Side lengths of a random crop (height, width); the whole picture when equal to it.
    """

    name: str
    steps: int
    batch: int
    frames: int
    crop: tuple[int, int]


STAGES = (
    Stage(name="pictures", steps=1500, batch=256, frames=1, crop=(64, 64)),
    Stage(name="short clips", steps=5000, batch=64, frames=17, crop=(64, 64)),
    Stage(name="long crops", steps=2500, batch=24, frames=81, crop=(64, 64)),
    Stage(name="whole clips", steps=1500, batch=8, frames=81, crop=(HEIGHT, WIDTH)),
)


def sprites_vae_config() -> WanVaeConfig:
    """Sizes of the shipped VAE."""
    return WanVaeConfig(base_dim=16, z_dim=16, dim_mult=(1, 2, 4, 4), num_res_blocks=1)


def draw_clips(stage: Stage, generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw one training batch, float in [-1, 1], shape B, 3, F, H, W."""
    scenes = sample_scenes(stage.batch, generator, split="train")
    start = torch.randint(0, 4 * FRAMES - stage.frames, (stage.batch,), generator=generator)
    height, width = stage.crop
    crop = Crop(
        top_B=torch.randint(0, HEIGHT - height + 1, (stage.batch,), generator=generator),
        left_B=torch.randint(0, WIDTH - width + 1, (stage.batch,), generator=generator),
        height=height,
        width=width,
    )
    return draw_batch(scenes, frame_windows(start, stage.frames), device=device, crop=crop)


def vae_loss(vae: WanVae, video_BCFHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, the squared error in [0, 1] units, and the KL per latent value."""
    mean, logvar = vae.encode_whole(video_BCFHW)
    mean, logvar = mean.float(), logvar.float().clamp(-20, 10)
    latents = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
    picture = vae.decode_whole(latents, clamp=False).float()
    error = F.mse_loss(picture, video_BCFHW)
    sharp = F.smooth_l1_loss(picture, video_BCFHW, beta=0.05)
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return error + 0.1 * sharp + KL_WEIGHT * kl, error.detach() / 4, kl.detach()


@torch.no_grad()
def measure(vae: WanVae, device: torch.device, clips: int = 16) -> dict[str, float]:
    """PSNR of whole held-out clips, latent mean used, and of their last eighth (drift would show there)."""
    generator = torch.Generator().manual_seed(7)
    errors, late = [], []
    for _ in range(clips // 8):
        scenes = sample_scenes(8, generator, split="held_out")
        video = draw_batch(scenes, range(FRAMES), device=device)
        with torch.autocast(device.type, torch.bfloat16):
            picture = vae.decode_whole(vae.encode_whole(video)[0])
        square = ((picture.float().clamp(-1, 1) - video) / 2).square().mean(dim=(1, 3, 4))
        errors.append(square.mean(1))
        late.append(square[:, -10:].mean(1))
    return {
        "psnr_db": float(-10 * torch.cat(errors).mean().log10()),
        "worst_clip_db": float(-10 * torch.cat(errors).max().log10()),
        "last_frames_db": float(-10 * torch.cat(late).mean().log10()),
    }


@torch.no_grad()
def latent_statistics(vae: WanVae, device: torch.device, clips: int = 256) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each latent channel over training clips."""
    generator = torch.Generator().manual_seed(11)
    total, square, count = torch.zeros(16, device=device), torch.zeros(16, device=device), 0
    for _ in range(clips // 8):
        scenes = sample_scenes(8, generator, split="train")
        video = draw_batch(scenes, range(FRAMES), device=device)
        with torch.autocast(device.type, torch.bfloat16):
            mean = vae.encode_whole(video)[0].float()
        total += mean.sum(dim=(0, 2, 3, 4))
        square += mean.square().sum(dim=(0, 2, 3, 4))
        count += mean.numel() // mean.shape[1]
    average = total / count
    return average.tolist(), (square / count - average.square()).sqrt().tolist()


def load_vae(folder: Path, device: torch.device) -> WanVae:
    """Load what `train` wrote, with its latent statistics, ready to encode and decode."""
    statistics = json.loads((folder / "statistics.json").read_text())
    config = replace(
        sprites_vae_config(),
        latents_mean=tuple(statistics["latents_mean"]),
        latents_std=tuple(statistics["latents_std"]),
    )
    vae = WanVae(config)
    vae.load_state_dict(torch.load(folder / "vae.pt", map_location="cpu", weights_only=True))
    return vae.to(device).to_channels_last().eval().requires_grad_(requires_grad=False)


def batches(seed: int, device: torch.device, scale: float) -> Iterator[tuple[Stage, Tensor]]:
    """All training batches in order."""
    generator = torch.Generator().manual_seed(seed)
    for stage in STAGES:
        for _ in range(max(1, round(stage.steps * scale))):
            yield stage, draw_clips(stage, generator, device)


def train(out: Path, *, seed: int, scale: float, compile_model: bool) -> None:
    """Run all stages and write `vae.safetensors`, `statistics.json` and the log to `out`."""
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae = WanVae(sprites_vae_config()).to(device)
    if device.type == "cuda":
        vae.to_channels_last()
    total = sum(max(1, round(stage.steps * scale)) for stage in STAGES)
    trainer = Trainer(vae, Optimisation(learning_rate=1.6e-3, ema=0.998, clip=0.5), total, out)
    loss_of = torch.compile(vae_loss, dynamic=False) if compile_model else vae_loss
    for stage, video in batches(seed, device, scale):
        with torch.autocast(device.type, torch.bfloat16):
            loss, error, kl = loss_of(vae, video)
        norm = trainer.update(loss)
        if trainer.step % 100 == 0:
            psnr = float(-10 * error.log10())
            trainer.log(stage=stage.name, train_db=round(psnr, 2), kl=round(float(kl), 3), norm=round(float(norm), 3))
        if trainer.step % 1000 == 0 or trainer.step == total:
            trainer.log(stage=stage.name, **measure(trainer.average, device))
            trainer.save()
    mean, std = latent_statistics(trainer.average, device)
    (out / "statistics.json").write_text(json.dumps({"latents_mean": mean, "latents_std": std}))
    torch.save(trainer.average.state_dict(), out / "vae.pt")


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/vae"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the steps of every stage")
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    train(options.out, seed=options.seed, scale=options.scale, compile_model=not options.no_compile)


if __name__ == "__main__":
    main()
