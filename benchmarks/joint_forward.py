"""Windows of several requests in one forward, against one after the other, and in step: what batching gains and costs.

    python -m benchmarks.joint_forward --out benchmarks/results/joint_forward_cpu.json
    python -m benchmarks.joint_forward --device cuda --preset wan2.1-t2v-1.3b --size 832x480
    python -m benchmarks.joint_forward --tiny                   # to see that it runs

Chunks of one and three latent frames over nine that are remembered, each row with a memory of its own. `apart` is one
forward after the other, `joint` one batch, `in_step` the batch whose rows go through each layer one by one, which is
what an engine with `batch_invariant` does. Correctness first: rows in step must be the bits of forwards apart, and rows
of a batch within 1e-5 of the largest value in float32. The knee is the most tokens of all rows together at which a
joint forward still took at least a tenth less than its windows apart.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.drawn_model import DrawnLoader
from benchmarks.harness import describe_machine, time_interleaved
from reelray.cluster.model_catalog import PACKAGED
from reelray.workers.memory.workspace import fill_workspace
from reelray.workers.models.api import VideoModel
from reelray.workers.models.attention_op import View
from reelray.workers.models.joint_rows import Row
from reelray.workers.models.registry import open_checkpoint

REMEMBERED = 9
PROMPTS = ("a red circle moves left on a blue background", "a green square", "a star spins", "two squares")


def draw_rows(model: VideoModel, count: int, *, frames: int, size: tuple[int, int]) -> list[Row]:
    """Windows of different requests.

    Args:
        model: Evaluates them.
        count: How many.
        frames: Latent frames of each.
        size: Width and height in pixels.
    """
    rows, columns = model.facts.latent_size(*size)
    _, patch_rows, patch_columns = model.facts.patch
    places, shape = (rows // patch_rows) * (columns // patch_columns), model.key_shape(model.heads)
    texts, drawn = model.encode_text(PROMPTS), []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)

        def draw(*sizes: int, generator: torch.Generator = generator) -> torch.Tensor:
            return torch.randn(*sizes, generator=generator).to(model.device)

        size_1KND = (1, REMEMBERED * places, shape.heads, shape.width)
        keys, values = ([draw(*size_1KND).to(shape.dtype) for _ in range(shape.layers)] for _ in range(2))
        drawn.append(
            Row(
                latents_1CTHW=draw(1, model.facts.latent_channels, frames, rows, columns),
                timesteps=(900.0 - 100 * number,) * frames,
                text=texts[number % len(texts)],
                positions=tuple(range(REMEMBERED, REMEMBERED + frames)),
                view=View(past=fill_workspace(keys, values, window=frames * places)),
            )
        )
    return drawn


@torch.inference_mode()
def measure(model: VideoModel, rows: Sequence[Row], runs: int) -> dict[str, Any]:
    """Check and time one case."""
    apart = [model.denoise_rows([row])[0] for row in rows]
    joint, in_step = model.denoise_rows(rows), model.denoise_rows(rows, in_step=True)
    whole = max(float(one.abs().max()) for one in apart)
    gap = max(float((one - other).abs().max()) for one, other in zip(joint, apart, strict=True)) / whole
    if not all(map(torch.equal, in_step, apart)):
        sys.exit("wrong result: rows in step are not the bits of forwards apart")
    if model.dtype is torch.float32 and gap > 1e-5:
        sys.exit(f"wrong result: rows of a batch are {gap:.1e} from forwards apart")
    contenders = {
        "apart": lambda: [model.denoise_rows([row]) for row in rows],
        "joint": lambda: model.denoise_rows(rows),
        "in_step": lambda: model.denoise_rows(rows, in_step=True),
    }
    times = {name: asdict(timing) for name, timing in time_interleaved(contenders, runs=runs).items()}
    best = {name: timing["best_ms"] for name, timing in times.items()}
    return {
        "largest_gap": gap,
        "times": times,
        "gain": best["apart"] / best["joint"],
        "gain_in_step": best["apart"] / best["in_step"],
    }


def main() -> None:
    """Check, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--preset", help="draw this model; by default the packaged one is read")
    parser.add_argument("--size", default="192x128")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    preset = options.preset or ("wan2.1-t2v-1.3b" if options.tiny else None)
    if preset is None:
        model = open_checkpoint(PACKAGED / "sprites", device=options.device)
    else:
        model = DrawnLoader(preset=preset, device=options.device, tiny=options.tiny)()
    cases = []
    for frames in (1, 3):
        for count in (2, 4, 8):
            rows = draw_rows(model, count, frames=frames, size=(width, height))
            tokens = rows[0].latents_1CTHW[0, 0].numel() // (model.facts.patch[1] * model.facts.patch[2])
            case = {
                "latent_frames": frames,
                "rows": count,
                "tokens": count * tokens,
                **measure(model, rows, options.runs),
            }
            cases.append(case)
            print(f"{frames} latent frames x {count}: {case['gain']:.2f} joint, {case['gain_in_step']:.2f} in step")
    report = {
        "case": "joint_forward",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {**describe_machine(), "cores": psutil.cpu_count(), "threads": torch.get_num_threads()},
        "model": {"preset": preset or "sprites", "dtype": str(model.dtype), "size": options.size},
        "load_average_after": psutil.getloadavg(),
        "cases": cases,
        "knee_tokens": max((case["tokens"] for case in cases if case["gain"] >= 1.1), default=0),
    }
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"knee: {report['knee_tokens']} tokens")


if __name__ == "__main__":
    main()
