"""Render held-out captions with the sprites checkpoint, as `reelray render` would; the detector judges every clip.

On a GPU sixteen requests share a batch (`sampling.py`), on a CPU the engine renders one after the other.

python -m examples.train_sprites.evaluate --count 200 --out benchmarks/results/sprites_quality.json --sheet sheet.png
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from examples.train_sprites.judging import Judge, count_right, shares
from examples.train_sprites.sampling import sample_requests
from examples.train_sprites.scenes import sample_held_out_captions
from examples.train_sprites.sheet import make_sheet
from reelray.cluster.checkpoint_loader import CheckpointLoader, choose_device
from reelray.cluster.local_engine import LocalEngine
from reelray.proto.events import Frames
from reelray.proto.request import RenderRequest, RequestId
from reelray.workers.models.registry import describe_checkpoint, open_checkpoint

SHOWN = 12
EVERY = 16


def request_for(number: int, caption: str, checkpoint: Path) -> RenderRequest:
    """The request that `reelray render CAPTION --seed NUMBER` makes."""
    recipe = describe_checkpoint(checkpoint).recipe
    return RenderRequest(
        request_id=RequestId(f"clip-{number}"),
        prompt=caption,
        negative_prompt=recipe.defaults.negative_prompt,
        width=recipe.defaults.width,
        height=recipe.defaults.height,
        frames=recipe.defaults.frames,
        seed=number,
        recipe=recipe,
    )


def render_clips(checkpoint: Path, captions: list[str], device: str) -> Iterator[NDArray[np.uint8]]:
    """Render one clip after the other; uint8 [T, H, W, 3]."""
    with LocalEngine.open(CheckpointLoader(path=checkpoint, device=device)) as engine:
        for number, caption in enumerate(captions):
            events = engine.render(request_for(number, caption, checkpoint))
            parts = [
                np.frombuffer(event.data, np.uint8).reshape(event.count, event.height, event.width, 3)
                for event in events
                if isinstance(event, Frames)
            ]
            yield np.concatenate(parts)


def render_batches(checkpoint: Path, captions: list[str], device: str) -> Iterator[NDArray[np.uint8]]:
    """Render the same clips with several requests in a batch; latents equal the engine's within 1e-4 in float32."""
    model = open_checkpoint(checkpoint, device=device)
    request = request_for(0, captions[0], checkpoint)
    height, width = model.facts.latent_size(request.width, request.height)
    frames = (request.frames - 1) // model.facts.temporal_stride + 1
    latents = sample_requests(
        model,
        captions,
        request.recipe.schedule,
        request.recipe.guidance,
        (model.facts.latent_channels, frames, height, width),
        negative_prompt=request.negative_prompt,
    )
    for latents_1CTHW in latents:
        yield model.decode(latents_1CTHW, model.new_decode_state()).numpy()


def evaluate(checkpoint: Path, count: int, seed: int, device: str) -> tuple[dict[str, Any], list[Any], list[str]]:
    """Render and judge; returns the report, the first clips and their captions."""
    pairs = sample_held_out_captions(count, seed)
    captions = [caption for caption, _ in pairs]
    scenes = [scene for _, scene in pairs]
    shown: list[Any] = []
    device, started = choose_device(device), time.monotonic()
    render = render_clips if device == "cpu" else render_batches
    with Judge() as judge:
        right, wrong = [], []
        for number, clip in enumerate(render(checkpoint, captions, device)):
            if number < SHOWN:
                shown.append(clip)
            right.append((scenes[number], judge.submit(clip, scenes[number])))
            wrong.append(judge.submit(clip, scenes[(number + 1) % count]))
            if number % EVERY == EVERY - 1:
                print(f"{number + 1} of {count} clips after {time.monotonic() - started:.0f} s", flush=True)
        rendered_s = time.monotonic() - started
        verdicts = [future.result().to_dict() for _, future in right]
        shuffled = [future.result().to_dict() for future in wrong]
    report = {
        "captions": count,
        "seed": seed,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "rendered_s": round(rendered_s, 1),
        "right": count_right(right),
        "right_against_shuffled_captions": shares(shuffled),
        "clips": [{"caption": c, **v} for c, v in zip(captions, verdicts, strict=True)],
    }
    return report, shown, captions[:SHOWN]


def main() -> None:
    """Parse the command line, evaluate, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("reelray/checkpoints/sprites"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sprites_quality.json"))
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    report, clips, captions = evaluate(options.checkpoint, options.count, options.seed, options.device)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print({name: value for name, value in report.items() if name != "clips"})
    if options.sheet:
        make_sheet(clips, captions).save(options.sheet)


if __name__ == "__main__":
    main()
