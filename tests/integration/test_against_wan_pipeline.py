"""From text to frames: our parts in a plain loop against diffusers' pipelines, on the same noise."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from diffusers.pipelines.wan import pipeline_wan_i2v
from PIL import Image
from torch import Tensor

from reelray.proto.recipe import Guidance, Schedule, Solver
from reelray.workers.models.api import VideoModel
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.samplers.api import build_sampler
from reelray.workers.samplers.guidance import mix_branches, plan_weights
from reelray.workers.samplers.noise import INITIAL_STEP, draw_noise
from tests.support.tiny_checkpoint import I2V_TEXT_TOKENS, TEXT_TOKENS

PROMPT, NEGATIVE = "a red circle moves left on a blue background", "blurry"
SIZE = {"height": 48, "width": 32}
FRAMES = 9
SCHEDULE = Schedule(solver=Solver.UNIPC, steps=3, shift=3.0)


def draw_start() -> Tensor:
    return draw_noise(
        seed=7, chunk=0, step=INITIAL_STEP, channels=16, latent_frames=3, height=SIZE["height"] // 8, width=4
    )


def draw_pixels() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (SIZE["height"], SIZE["width"], 3), generator=generator, dtype=torch.uint8)


@torch.no_grad()
def render(model: VideoModel, schedule: Schedule, guidance: Guidance, image_HWC: Tensor | None = None) -> Tensor:
    sampler, latents = build_sampler(schedule), draw_start()
    positive, negative = ([text] for text in model.encode_text([PROMPT, NEGATIVE]))
    image = None if image_HWC is None else [model.encode_image(image_HWC, frames=FRAMES)]
    positions = torch.arange(3)[None]
    for index, weight in enumerate(plan_weights(guidance, sampler.sigmas)):
        timestep = torch.full((1, 3), sampler.timesteps[index])
        prediction = model.denoise(latents, timestep, positive, positions_BT=positions, image=image)
        if weight != 1:
            other = model.denoise(latents, timestep, negative, positions_BT=positions, image=image)
            prediction = mix_branches(prediction, other, weight)
        latents = sampler.step(prediction, latents, index)
    return latents


def decode(model: VideoModel, latents: Tensor) -> np.ndarray:
    state = model.new_decode_state()
    parts = [model.decode(latents[:, :, index : index + 1], state) for index in range(latents.shape[2])]
    return torch.cat(parts).numpy()


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.fixture(scope="module")
def pipeline(tiny_t2v: Path) -> WanPipeline:
    pipeline = WanPipeline.from_pretrained(tiny_t2v)
    pipeline.set_progress_bar_config(disable=True)
    align_weights(pipeline)
    return pipeline


def align_weights(pipeline: WanPipeline) -> None:
    """Move weights off the mapped file, where they begin at odd places and some products round otherwise."""
    for parameter in pipeline.transformer.parameters():
        parameter.data = parameter.data.clone()


def ask(
    pipeline: WanPipeline, *, scale: float, steps: int, output: str, text_tokens: int = TEXT_TOKENS, **more: object
):
    return pipeline(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        num_frames=FRAMES,
        num_inference_steps=steps,
        guidance_scale=scale,
        latents=draw_start(),
        max_sequence_length=text_tokens,
        output_type=output,
        **SIZE,
        **more,
    ).frames


@pytest.mark.parametrize(("scale", "steps"), [(4.0, 3), (1.0, 3), (6.0, 8)])
def test_t2v_latents_equal_those_of_diffusers(pipeline: WanPipeline, tiny_t2v: Path, scale: float, steps: int) -> None:
    model = open_checkpoint(tiny_t2v, device="cpu")
    ours = render(model, dataclasses.replace(SCHEDULE, steps=steps), Guidance(scale=scale))
    assert torch.equal(ours, ask(pipeline, scale=scale, steps=steps, output="latent"))


def test_a_large_window_merges_padding_and_stays_near(
    pipeline: WanPipeline, tiny_t2v: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reelray.workers.models.wan.model.SMALL_WINDOW", 1)
    ours = render(open_checkpoint(tiny_t2v, device="cpu"), SCHEDULE, Guidance(scale=4.0))
    assert 0 < relative_error(ours, ask(pipeline, scale=4.0, steps=3, output="latent")) < 1e-4


def test_t2v_frames_equal_those_of_diffusers(pipeline: WanPipeline, tiny_t2v: Path) -> None:
    model = open_checkpoint(tiny_t2v, device="cpu")
    ours = decode(model, render(model, SCHEDULE, Guidance(scale=4.0)))
    theirs = (ask(pipeline, scale=4.0, steps=3, output="np")[0] * 255).round()
    assert ours.shape == theirs.shape == (FRAMES, SIZE["height"], SIZE["width"], 3)
    difference = np.abs(ours.astype(np.float32) - theirs)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


def test_the_comparison_sees_a_wrong_shift(pipeline: WanPipeline, tiny_t2v: Path) -> None:
    model = open_checkpoint(tiny_t2v, device="cpu")
    ours = render(model, dataclasses.replace(SCHEDULE, shift=3.1), Guidance(scale=4.0))
    assert relative_error(ours, ask(pipeline, scale=4.0, steps=3, output="latent")) > 1e-3


def test_i2v_latents_equal_those_of_diffusers(tiny_i2v: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_wan_i2v, "ftfy", SimpleNamespace(fix_text=str), raising=False)
    pipeline = WanImageToVideoPipeline.from_pretrained(tiny_i2v)
    pipeline.set_progress_bar_config(disable=True)
    align_weights(pipeline)
    image_HWC = draw_pixels()
    image = Image.fromarray(image_HWC.numpy())
    theirs = ask(pipeline, scale=4.0, steps=3, output="latent", text_tokens=I2V_TEXT_TOKENS, image=image)
    model = open_checkpoint(tiny_i2v, device="cpu")
    ours = render(model, SCHEDULE, Guidance(scale=4.0), image_HWC)
    assert relative_error(ours, theirs) < 1e-4
