"""CLIP and the latent condition against WanImageToVideoPipeline."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from diffusers.video_processor import VideoProcessor
from PIL import Image
from torch import Tensor

from reelray.proto.errors import CheckpointError
from reelray.workers.models.wan.clip import ClipConfig, ClipVision, load_clip
from reelray.workers.models.wan.image import build_condition, embed_image
from reelray.workers.models.wan.vae import WanVae, WanVaeConfig


def draw_image(height: int, width: int) -> Tensor:
    noise = torch.rand(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(5))
    smooth = torch.nn.functional.interpolate(noise, size=(height, width), mode="bilinear")
    return (smooth[0].permute(1, 2, 0) * 255).to(torch.uint8)


@pytest.fixture(scope="module")
def pipeline(tiny_i2v: Path) -> WanImageToVideoPipeline:
    return WanImageToVideoPipeline.from_pretrained(tiny_i2v)


@pytest.fixture(scope="module")
def clip(tiny_i2v: Path) -> ClipVision:
    folder = tiny_i2v / "image_encoder"
    config = ClipConfig.from_transformers(json.loads((folder / "config.json").read_text()))
    return load_clip([folder / "model.safetensors"], config, device="cpu", dtype=torch.float32)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 32), (32, 80), (28, 36)])
def test_clip_sees_what_diffusers_shows(pipeline, clip: ClipVision, height: int, width: int) -> None:
    image_HWC = draw_image(height, width)
    with torch.no_grad():
        ours = embed_image(clip, image_HWC)
        theirs = pipeline.encode_image(Image.fromarray(image_HWC.numpy()), "cpu")
    assert ours.shape == theirs.shape
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_condition_equals_that_of_diffusers(pipeline, tiny_i2v: Path, frames: int) -> None:
    config = WanVaeConfig.from_diffusers(json.loads((tiny_i2v / "vae" / "config.json").read_text()))
    vae = WanVae(config)
    vae.load_state_dict(pipeline.vae.state_dict())
    image_HWC = draw_image(32, 48)
    processor = VideoProcessor(vae_scale_factor=8)
    pixels = processor.preprocess(Image.fromarray(image_HWC.numpy()), height=32, width=48)
    with torch.no_grad():
        ours = build_condition(vae.eval(), image_HWC, frames=frames)
        _, theirs = pipeline.prepare_latents(pixels, 1, 16, 32, 48, frames, torch.float32, torch.device("cpu"), None)
    assert ours.shape == theirs.shape == (1, 20, (frames + 3) // 4, 4, 6)
    assert torch.equal(ours[:, :4], theirs[:, :4])
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


def test_the_defaults_are_vit_h() -> None:
    config = ClipConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.tokens) == (1280, 32, 257)


def test_another_activation_is_told() -> None:
    with pytest.raises(CheckpointError, match="hidden_act is quick_gelu; served: gelu"):
        ClipConfig.from_transformers({"hidden_act": "quick_gelu"})
    with pytest.raises(CheckpointError, match="field `hidden_size` is missing"):
        ClipConfig.from_transformers({"vision_config": {"hidden_act": "gelu"}})
