"""The tiny checkpoints load in the oracle."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from diffusers.pipelines.wan import pipeline_wan_i2v
from PIL import Image


def test_diffusers_renders_the_t2v_checkpoint(tiny_t2v: Path) -> None:
    pipeline = WanPipeline.from_pretrained(tiny_t2v)
    pipeline.set_progress_bar_config(disable=True)
    video = pipeline(prompt="a red circle", width=32, height=32, num_frames=9, num_inference_steps=2).frames
    assert video.shape == (1, 9, 32, 32, 3)


def test_diffusers_renders_the_i2v_checkpoint(tiny_i2v: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # This pipeline calls ftfy even where it is not installed.
    monkeypatch.setattr(pipeline_wan_i2v, "ftfy", SimpleNamespace(fix_text=str), raising=False)
    pipeline = WanImageToVideoPipeline.from_pretrained(tiny_i2v)
    pipeline.set_progress_bar_config(disable=True)
    image = Image.new("RGB", (32, 32), (200, 30, 30))
    latents = pipeline(
        image=image, prompt="a", width=32, height=32, num_frames=5, num_inference_steps=2, output_type="latent"
    ).frames
    assert latents.shape == (1, 16, 2, 4, 4)
    assert torch.isfinite(latents).all()
