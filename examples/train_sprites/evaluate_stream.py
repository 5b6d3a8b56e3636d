"""A minute of video by a streaming checkpoint: does it last, does it change when told, and what does it cost?

    python -m examples.train_sprites.evaluate_stream --checkpoint reelray/checkpoints/sprites-causal --captions 64

Shares of right streams come from batches (`stream_batch.py`), which a GPU makes in seconds; rate and memory from the
engine, one stream at a time, as `reelray stream` runs it (`--engine N` streams; the first is measured for speed).
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from examples.train_sprites.judging import Judge, count_right
from examples.train_sprites.scenes import sample_held_out_captions
from examples.train_sprites.stream_batch import StreamBatch
from examples.train_sprites.stream_engine import run_streams
from reelray.cluster.checkpoint_loader import choose_device
from reelray.proto.recipe import Recipe

SECONDS, JUDGED_LATENTS = 60, 40
"""Ten seconds are 40 latent frames."""
SWITCH_LATENT, LATENTS_AFTER = 27, 27
SWITCH_DELAY, SWITCH_JUDGED = 16, 80
"""Pixel frames after which a change has to show, and how many are looked at then."""


def judge_lasting(batch: StreamBatch, judge: Judge, *, captions: int, seconds: float, seed: int) -> dict[str, Any]:
    """Shares of right streams in their first and last ten seconds."""
    pairs = sample_held_out_captions(captions, seed)
    chunks = -(-round(seconds * 4) // batch.streaming.size)
    latents = batch.latents([[caption for caption, _ in pairs]], [chunks])
    last = latents.shape[2] - JUDGED_LATENTS
    judged: dict[str, Any] = {}
    for name, first in (("first_10s", 0), ("last_10s", last)):
        judged[name] = [
            (scene, judge.submit(batch.frames(row, first, JUDGED_LATENTS), scene))
            for row, (_, scene) in zip(torch.split(latents, 1), pairs, strict=True)
        ]
    return {name: count_right(verdicts) for name, verdicts in judged.items()}


def judge_switches(batch: StreamBatch, judge: Judge, *, captions: int, seed: int) -> dict[str, float]:
    """Shares of streams that show the second prompt from one second after the change on."""
    before, after = (sample_held_out_captions(captions, seed + number) for number in (1, 2))
    prompts = [[caption for caption, _ in pairs] for pairs in (before, after)]
    size = batch.streaming.size
    begin = -(-SWITCH_LATENT // size) * size
    latents = batch.latents(prompts, [begin // size, -(-LATENTS_AFTER // size)])
    judged = []
    for row, (_, scene) in zip(torch.split(latents, 1), after, strict=True):
        frames = batch.frames(row, begin, LATENTS_AFTER)[SWITCH_DELAY:][:SWITCH_JUDGED]
        judged.append((scene, judge.submit(frames, scene)))
    return count_right(judged)


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for."""
    device, started = choose_device(options.device), time.monotonic()
    report: dict[str, Any] = {
        "checkpoint": options.checkpoint.name,
        "seconds": options.seconds,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    with Judge() as judge:
        if options.captions:
            batch = StreamBatch(options.checkpoint, device)
            report |= {"captions": options.captions, "steps": list_steps(batch.recipe)}
            report |= judge_lasting(batch, judge, captions=options.captions, seconds=options.seconds, seed=options.seed)
            report["switched_after_1s"] = judge_switches(batch, judge, captions=options.captions, seed=options.seed)
            del batch
        if options.engine:
            captions = sample_held_out_captions(options.engine, options.seed)
            report["engine"] = run_streams(options.checkpoint, captions, judge, seconds=options.seconds, device=device)
    report["took_s"] = round(time.monotonic() - started, 1)
    return report


def list_steps(recipe: Recipe) -> list[int]:
    """Denoise steps of the first chunks."""
    return [recipe.schedule.of_chunk(chunk).length for chunk in range(4)]


def main() -> None:
    """Parse the command line, evaluate, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("reelray/checkpoints/sprites-causal"))
    parser.add_argument("--captions", type=int, default=0, help="streams made in batches and judged; 0 leaves them out")
    parser.add_argument("--engine", type=int, default=1, help="streams through the engine; 0 leaves them out")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sprites_stream.json"))
    options = parser.parse_args()
    report = evaluate(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
