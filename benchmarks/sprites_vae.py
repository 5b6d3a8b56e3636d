"""How well the embedded model's VAE rebuilds clips that it never saw, without the transformer.

    python -m benchmarks.sprites_vae

Held-out clips are drawn, encoded and decoded by the shipped weights as the engine does, and compared as bytes.
"""

import argparse
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import describe_machine
from examples.train_sprites.draw import draw_batch, to_uint8
from examples.train_sprites.scenes import sample_scenes
from reelray.quality.metrics import psnr, worst_frame_psnr
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.models.wan.model import WanModel

FRAMES = 81
SPRITES = Path("reelray/checkpoints/sprites")
RESULT = Path("benchmarks/results/sprites_vae.json")
TARGET_DB = 32.0


@torch.inference_mode()
def rebuild_clips(model: WanModel, count: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw held-out clips one by one; yields each before and after the VAE, uint8 [T, H, W, 3]."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        video_1CTHW = draw_batch(sample_scenes(1, generator, split="held_out"), range(FRAMES), device=model.device)
        vae = model.parts.vae
        mean_1CTHW, _ = vae.encode(video_1CTHW, vae.new_encode_state())
        latents_1CTHW = vae.normalise(mean_1CTHW)
        frames_THWC = model.decode(latents_1CTHW, model.new_decode_state())
        yield to_uint8(video_1CTHW)[0].cpu(), frames_THWC.cpu()


def measure(checkpoint: Path, count: int, seed: int, device: str) -> dict[str, Any]:
    """Compare every clip with what the VAE made of it; decibels of the mean squared error."""
    model = open_checkpoint(checkpoint, device=device)
    if not isinstance(model, WanModel):
        raise TypeError(f"{checkpoint} holds no Wan model")
    clips = [
        {"psnr_db": psnr(rebuilt, drawn), "worst_frame_db": worst_frame_psnr(rebuilt, drawn)}
        for drawn, rebuilt in rebuild_clips(model, count, seed)
    ]
    errors = [10 ** (-clip["psnr_db"] / 10) for clip in clips]
    return {
        "case": "sprites_vae",
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": describe_machine(),
        "digest": model.digest,
        "clips": count,
        "seed": seed,
        "frames": FRAMES,
        "target_db": TARGET_DB,
        "psnr_db": float(-10 * np.log10(np.mean(errors))),
        "worst_clip_db": min(clip["psnr_db"] for clip in clips),
        "by_clip": clips,
    }


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=SPRITES)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    report = measure(options.checkpoint, options.count, options.seed, options.device)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{report['psnr_db']:.2f} dB, worst clip {report['worst_clip_db']:.2f} dB (target {TARGET_DB})")


if __name__ == "__main__":
    main()
