"""Render held-out captions with the sprites checkpoint, as `reelray render` would; the detector judges every clip.

python -m examples.train_sprites.evaluate --count 200 --out benchmarks/results/sprites_quality.json --sheet sheet.png
"""

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from examples.train_sprites.scenes import sample_held_out_captions
from examples.train_sprites.sheet import make_sheet
from reelray.cluster.checkpoint_loader import CheckpointLoader
from reelray.cluster.local_engine import LocalEngine
from reelray.proto.events import Frames
from reelray.proto.request import RenderRequest, RequestId
from reelray.quality.sprites.detector import Verdict, score
from reelray.workers.models.registry import describe_checkpoint

SHOWN = 12


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


def evaluate(checkpoint: Path, count: int, seed: int, device: str) -> tuple[dict[str, Any], list[Any], list[str]]:
    """Render and judge; returns the report, the first clips and their captions."""
    pairs = sample_held_out_captions(count, seed)
    captions = [caption for caption, _ in pairs]
    scenes = [scene for _, scene in pairs]
    shown: list[Any] = []
    # Spawned: a fork would copy torch's threads in mid-air.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        waiting: list[tuple[Future[Verdict], Future[Verdict]]] = []
        for number, clip in enumerate(render_clips(checkpoint, captions, device)):
            if number < SHOWN:
                shown.append(clip)
            other = scenes[(number + 1) % count]
            waiting.append((pool.submit(score, clip, scenes[number]), pool.submit(score, clip, other)))
        verdicts = [right.result().to_dict() for right, _ in waiting]
        shuffled = [wrong.result().to_dict() for _, wrong in waiting]
    single = [v for v, scene in zip(verdicts, scenes, strict=True) if len(scene.sprites) == 1]
    report = {
        "captions": count,
        "seed": seed,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() and device != "cpu" else "cpu",
        "torch": torch.__version__,
        "right": shares(verdicts),
        "right_one_sprite": shares(single),
        "right_against_shuffled_captions": shares(shuffled),
        "clips": [{"caption": c, **v} for c, v in zip(captions, verdicts, strict=True)],
    }
    return report, shown, captions[:SHOWN]


def shares(verdicts: list[dict[str, bool]]) -> dict[str, float]:
    """Share of clips that are right, by attribute."""
    return {name: round(sum(v[name] for v in verdicts) / len(verdicts), 4) for name in verdicts[0]} if verdicts else {}


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
