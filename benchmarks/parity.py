"""Our maths beside diffusers' on a CPU: transformer, latent decoder, and the whole pipeline on the sprites checkpoint.

    python -m benchmarks.parity --out benchmarks/results/parity.json

Every row is one error and its limit; the process fails when a row is beyond it. diffusers is the oracle throughout:
the same weights, the same inputs, float32 unless a row says otherwise. About five minutes on two cores; `--quick`
leaves the 81-frame clip out.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import Tensor

from benchmarks.harness import relative_error, write_report
from benchmarks.parity_clips import PROMPT, SPRITES, Clip, clips
from reelray.cluster.local_engine import LocalEngine
from reelray.proto.events import Frames
from reelray.proto.recipe import Recipe, Solver
from reelray.proto.request import RenderRequest, RequestId
from reelray.workers.models.wan.checkpoint import open_checkpoint
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.key_map import checkpoint_views
from reelray.workers.models.wan.model import WanModel
from reelray.workers.models.wan.transformer import WanTransformer
from reelray.workers.models.wan.vae import WanVae, WanVaeConfig
from reelray.workers.recipes.manifest import read_manifest
from reelray.workers.samplers.guidance import plan_weights
from reelray.workers.samplers.noise import INITIAL_STEP, draw_noise
from reelray.workers.samplers.sigmas import plan_noise_levels

SMALL: dict[str, Any] = {
    "num_attention_heads": 3,
    "attention_head_dim": 32,
    "text_dim": 40,
    "freq_dim": 64,
    "ffn_dim": 176,
    "num_layers": 4,
}
SMALL_I2V = {**SMALL, "in_channels": 36, "image_dim": 20, "added_kv_proj_dim": 96}
ODD_SIZES = ((1, 2, 2), (3, 6, 10), (5, 14, 22), (7, 30, 18))


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One comparison.

    Args:
        what: What was compared with what.
        measure: ``max abs`` or ``relative``, of the difference.
        error: What was measured.
        limit: The most it may be.
    """

    what: str
    measure: str
    error: float
    limit: float


class RecordingModel:
    """A `VideoModel` that passes everything on and keeps the latents that come to be decoded.

    Args:
        model: Does the work.
        jitter: Change every prediction by this part of itself, as rounding does.
    """

    def __init__(self, model: WanModel, jitter: float = 0.0) -> None:
        self.pieces: list[Tensor] = []
        self._model = model
        self._jitter = jitter
        self._generator = torch.Generator().manual_seed(1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def denoise(self, *inputs: Any, **more: Any) -> Tensor:
        """Predict, and round a little worse where asked."""
        prediction = self._model.denoise(*inputs, **more)
        if not self._jitter:
            return prediction
        return prediction * (1 + self._jitter * torch.randn(prediction.shape, generator=self._generator))

    def decode(self, latents_1CTHW: Tensor, state: Any, *, waits: bool = True) -> Tensor:
        """Keep the latents and decode them."""
        self.pieces.append(latents_1CTHW.clone())
        return self._model.decode(latents_1CTHW, state, waits=waits)


def max_error(value: Tensor, reference: Tensor) -> float:
    """Largest absolute difference; NaN stays NaN."""
    return float((value.float() - reference.float()).abs().max())


def make_twins(facts: dict[str, Any]) -> tuple[WanTransformer, WanTransformer3DModel]:
    """Ours and diffusers', random weights, also where a fresh model has zeros or ones."""
    torch.manual_seed(0)
    theirs = WanTransformer3DModel(**facts).eval()
    for parameter in theirs.parameters():
        if parameter.ndim == 1:
            parameter.add_(torch.randn_like(parameter) * 0.2)
    ours, weights = WanTransformer(WanConfig.from_diffusers(dict(theirs.config))).eval(), theirs.state_dict()
    for name, view in checkpoint_views(ours).items():
        view.copy_(weights[name])
    return ours, theirs


def compare_transformers() -> Iterator[Row]:
    """Odd sizes, batches of two, prompts with padding merged and not, one timestep a row and one a latent frame."""
    for task, facts in (("t2v", SMALL), ("i2v", SMALL_I2V)):
        ours, theirs = make_twins(facts)
        for size in ODD_SIZES:
            latents = torch.randn(2, ours.config.in_channels, *size)
            text = torch.randn(2, 512, ours.config.text_dim)
            text[0, 9:] = 0
            timestep = torch.tensor([987.0, 3.5])
            image = torch.randn(2, 257, 20) if task == "i2v" else None
            context = None if image is None else ours.prepare_image(image)
            expected = theirs(latents, timestep, text, image, return_dict=False)[0]
            for merge in (False, True):
                found = ours(latents, timestep, ours.prepare_text(text, merge_padding=merge), image=context)
                what = f"transformer, {task}, {size}, batch 2, {'merged' if merge else 'plain'} padding"
                yield Row(what=what, measure="max abs", error=max_error(found, expected), limit=1e-5)
    yield from _compare_frame_timesteps()


def _compare_frame_timesteps() -> Iterator[Row]:
    ours, theirs = make_twins(SMALL)
    for size in ODD_SIZES:
        frames, tokens = size[0], size[1] // 2 * (size[2] // 2)
        latents, text = torch.randn(2, 16, *size), torch.randn(2, 512, ours.config.text_dim)
        timestep_BT = torch.rand(2, frames) * 1000
        expected = theirs(latents, timestep_BT.repeat_interleave(tokens, dim=1), text, return_dict=False)[0]
        what = f"transformer, t2v, {size}, batch 2, a timestep per latent frame"
        yield Row(what=what, measure="max abs", error=max_error(ours(latents, timestep_BT, text), expected), limit=1e-5)


def compare_decoders() -> Iterator[Row]:
    """The sprites VAE as loaded: pixels however the latents are cut, and the state left behind."""
    theirs = AutoencoderKLWan.from_pretrained(SPRITES / "vae", dtype=torch.float32).eval()
    ours = WanVae(WanVaeConfig.from_diffusers(dict(theirs.config))).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    latents = torch.randn(1, 16, 7, 5, 7)
    expected = theirs.decode(latents).sample
    reference = ours.new_decode_state()
    pixels = torch.cat([ours.decode(part, reference) for part in torch.split(latents, 1, dim=2)], dim=2)
    yield Row(what="VAE, 1 latent frame per call", measure="max abs", error=max_error(pixels, expected), limit=0)
    for cuts, per_call in (((7,), 1), ((2, 5), 1), ((7,), 2), ((3, 4), 3), ((7,), 7), ((1, 6), 4)):
        ours.latents_per_call, state = per_call, ours.new_decode_state()
        pixels = torch.cat([ours.decode(part, state) for part in torch.split(latents, list(cuts), dim=2)], dim=2)
        limit = 0 if per_call == 1 else 1e-5
        what = f"VAE, calls of {cuts}, {per_call} at once"
        yield Row(what=what, measure="max abs", error=max_error(pixels, expected), limit=limit)
        slots = zip(state.tiles[0], reference.tiles[0], strict=True)
        scaled = max(max_error(a, b) / max(float(b.abs().max()), 1.0) for a, b in slots)
        yield Row(what=f"{what}: carried state", measure="relative", error=scaled, limit=0 if per_call == 1 else 2e-6)


def compare_checkpoint(model: WanModel, pipeline: WanPipeline) -> Iterator[Row]:
    """One forward of the checkpoint as the engine asks for it: small windows bit for bit, larger ones merge padding."""
    context, (text, _) = model.encode_text([PROMPT]), pipeline.encode_prompt(PROMPT, do_classifier_free_guidance=False)
    text = torch.nn.functional.pad(text, (0, 0, 0, 512 - text.shape[1]))
    for size, limit in (((5, 10, 14), 0), ((5, 16, 24), 0), ((21, 16, 24), 1e-5)):
        latents, timestep = torch.randn(1, 16, *size), torch.full((1, size[0]), 640.0)
        predicted = model.denoise(latents, timestep, context, positions_BT=torch.arange(size[0])[None])
        reference = pipeline.transformer(latents, timestep[:, 0], text, return_dict=False)[0]
        what = f"sprites, one forward, {size}"
        yield Row(what=what, measure="relative", error=relative_error(predicted, reference), limit=limit)


def compare_prompts(model: WanModel, pipeline: WanPipeline) -> Iterator[Row]:
    """Text embeddings and one forward of the checkpoint for the empty, a short and the longest prompt."""
    latents, timestep = torch.randn(1, 16, 3, 10, 14), torch.tensor([640.0])
    longest = "red " * 511  # one token a word and the end token
    for name, prompt in (("empty", ""), ("short", PROMPT), ("512-token", longest)):
        used = len(pipeline.tokenizer(prompt).input_ids)
        expected, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)
        found = model.parts.text_encoder.encode([prompt])
        error = max_error(found, expected) / float(expected.abs().max())
        yield Row(what=f"text, {name} prompt ({used} tokens)", measure="relative", error=error, limit=1e-5)
        context = model.encode_text([prompt])
        predicted = model.denoise(latents, timestep[:, None], context, positions_BT=torch.arange(3)[None])
        reference = pipeline.transformer(latents, timestep, expected, return_dict=False)[0]
        what = f"text and transformer, {name} prompt"
        yield Row(what=what, measure="relative", error=relative_error(predicted, reference), limit=1e-5)


def compare_bfloat16(pipeline: WanPipeline) -> Iterator[Row]:
    """In bfloat16 our rounding must cost no more than diffusers' own: a tenth above theirs is the limit."""
    latents, timestep = torch.randn(1, 16, 5, 10, 14), torch.tensor([640.0])
    text, _ = pipeline.encode_prompt(PROMPT, do_classifier_free_guidance=False, max_sequence_length=512)
    truth = pipeline.transformer(latents, timestep, text, return_dict=False)[0]
    half = WanTransformer3DModel.from_pretrained(SPRITES / "transformer", dtype=torch.bfloat16).eval()
    theirs = half(latents.bfloat16(), timestep, text.bfloat16(), return_dict=False)[0]
    model = open_checkpoint(SPRITES, device="cpu", dtype=torch.bfloat16)
    ours = model.parts.transformer(latents, timestep, text)
    what = "transformer in bfloat16 against float32 (limit: 1.1 of diffusers' error)"
    limit = 1.1 * relative_error(theirs, truth)
    yield Row(what=what, measure="relative", error=relative_error(ours, truth), limit=limit)


def compare_clip(clip: Clip, model: WanModel, pipeline: WanPipeline) -> Iterator[Row]:
    """One render through the engine against the pipeline, on the same noise."""
    recipe = replace(read_manifest(SPRITES / "manifest.yaml"), schedule=clip.schedule, guidance=clip.guidance)
    latents, frames_FHWC = _render_ours(clip, model, recipe)
    expected = _render_theirs(clip, pipeline, recipe)
    if clip.steep:
        jittered, _ = _render_ours(clip, model, recipe, jitter=1e-7)
        floor = relative_error(jittered, latents)
        yield Row(what=f"{clip.what}: ours, predictions off by 1e-7", measure="relative", error=floor, limit=1e-3)
    yield Row(what=f"{clip.what}: latents", measure="relative", error=relative_error(latents, expected), limit=1e-4)
    pixels_FHWC = _decode_theirs(pipeline, expected)
    error = max_error(frames_FHWC, pixels_FHWC)
    yield Row(what=f"{clip.what}: frames, of 255", measure="max abs", error=error, limit=1)


def _render_ours(clip: Clip, model: WanModel, recipe: Recipe, *, jitter: float = 0.0) -> tuple[Tensor, Tensor]:
    recorder = RecordingModel(model, jitter)
    request = RenderRequest(
        request_id=RequestId("parity"),
        prompt=clip.prompt,
        negative_prompt="",
        width=clip.width,
        height=clip.height,
        frames=clip.frames,
        seed=clip.seed,
        recipe=recipe,
    )
    with LocalEngine.of_model(recorder) as engine, engine.render(request) as events:
        parts = [event for event in events if isinstance(event, Frames)]
    frames = [torch.frombuffer(bytearray(p.data), dtype=torch.uint8).view(p.count, p.height, p.width, 3) for p in parts]
    return torch.cat(recorder.pieces, dim=2), torch.cat(frames)


def _render_theirs(clip: Clip, pipeline: WanPipeline, recipe: Recipe) -> Tensor:
    kind = UniPCMultistepScheduler if clip.schedule.solver is Solver.UNIPC else DPMSolverMultistepScheduler
    pipeline.scheduler = kind(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=clip.schedule.shift, solver_order=2
    )
    noise = draw_noise(
        seed=clip.seed,
        chunk=0,
        step=INITIAL_STEP,
        channels=16,
        latent_frames=(clip.frames - 1) // 4 + 1,
        height=clip.height // 8,
        width=clip.width // 8,
    )
    # The pipeline reads this tensor at every step, so that writing to it changes the weight of the next one.
    weights = plan_weights(recipe.guidance, plan_noise_levels(clip.schedule).sigmas)
    scale = torch.tensor(weights[0])

    def set_next_weight(
        _pipeline: WanPipeline, index: int, _timestep: Tensor, _values: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        scale.fill_(weights[min(index + 1, len(weights) - 1)])
        return {}

    result: Tensor = pipeline(
        prompt=clip.prompt,
        negative_prompt="",
        width=clip.width,
        height=clip.height,
        num_frames=clip.frames,
        num_inference_steps=clip.schedule.steps,
        guidance_scale=scale,
        latents=noise,
        output_type="latent",
        callback_on_step_end=set_next_weight,
    ).frames
    return result


def _decode_theirs(pipeline: WanPipeline, latents_1CTHW: Tensor) -> Tensor:
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (pipeline.vae.config.latents_mean, pipeline.vae.config.latents_std)
    )
    pixels_1CFHW: Tensor = pipeline.vae.decode(latents_1CTHW * std + mean).sample
    return ((pixels_1CFHW[0].permute(1, 2, 3, 0) / 2 + 0.5).clamp(0, 1) * 255).round()


def measure(*, quick: bool) -> Iterator[Row]:
    """Every row, in the order of the pipeline."""
    yield from compare_transformers()
    yield from compare_decoders()
    model = open_checkpoint(SPRITES, device="cpu")
    pipeline = WanPipeline.from_pretrained(SPRITES, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    yield from compare_checkpoint(model, pipeline)
    yield from compare_prompts(model, pipeline)
    yield from compare_bfloat16(pipeline)
    for clip in clips(quick=quick):
        yield from compare_clip(clip, model, pipeline)


@torch.no_grad()
def main() -> None:
    """Measure, print, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/parity.json"))
    parser.add_argument("--quick", action="store_true", help="leave the 81-frame clip out")
    options = parser.parse_args()
    rows: list[Row] = []
    for row in measure(quick=options.quick):
        rows.append(row)
        print(f"{row.what:75s} {row.measure:9s} {row.error:9.2e}  limit {row.limit:.2e}", flush=True)
    write_report(options.out, "parity", [asdict(row) for row in rows], {})
    if any(not row.error <= row.limit for row in rows):
        sys.exit("wrong result")


if __name__ == "__main__":
    main()
