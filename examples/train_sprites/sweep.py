"""Find the best guidance and shift of a trained transformer on held-out captions; the detector decides.

    python -m examples.train_sprites.sweep --vae runs/vae --dit runs/dit --out runs/sweep.json

The best combination becomes `GUIDANCE` and `SHIFT` of `export.py`.
"""

import argparse
import json
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from examples.train_sprites.export import load_average
from examples.train_sprites.judging import Judge, count_right
from examples.train_sprites.tokenizer import build_tokenizer
from examples.train_sprites.train_vae import load_vae
from examples.train_sprites.trial import STEPS, Trial

GUIDANCES, SHIFTS = (1.5, 2.0, 3.0, 4.0, 6.0), (6.0, 12.0, 20.0)


def sweep(
    vae_folder: Path,
    dit_folder: Path,
    *,
    captions: int,
    steps: int,
    guidances: Sequence[float] = GUIDANCES,
    shifts: Sequence[float] = SHIFTS,
) -> dict[str, Any]:
    """Sample and judge every combination; returns rows, the best first.

    Args:
        vae_folder: What `train_vae` wrote.
        dit_folder: What `train_dit` wrote, complete or not.
        captions: Held-out captions per combination; seed 1, so that `evaluate` with seed 0 stays untouched.
        steps: Denoise steps.
        guidances: To try.
        shifts: To try with each.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, words = load_average(dit_folder)
    model.to(device).eval().requires_grad_(requires_grad=False)
    trial = Trial(load_vae(vae_folder, device), build_tokenizer(words), captions=captions, seed=1)
    started, waiting = time.monotonic(), []
    with Judge() as judge:
        for guidance, shift in product(guidances, shifts):
            clips = trial.clips(model, shift=shift, guidance=guidance, steps=steps)
            waiting.append((guidance, shift, judge.submit_all(clips, trial.scenes)))
        rows = [{"guidance": g, "shift": s, **count_right(judged)} for g, s, judged in waiting]
    rows.sort(key=lambda row: (row["all"], row["color"] + row["shape"] + row["motion"]), reverse=True)
    return {"captions": captions, "steps": steps, "seconds": round(time.monotonic() - started, 1), "rows": rows}


def main() -> None:
    """Parse the command line and sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, default=Path("runs/vae"))
    parser.add_argument("--dit", type=Path, default=Path("runs/dit"))
    parser.add_argument("--captions", type=int, default=64)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidances", type=float, nargs="+", default=GUIDANCES)
    parser.add_argument("--shifts", type=float, nargs="+", default=SHIFTS)
    parser.add_argument("--out", type=Path, default=Path("runs/sweep.json"))
    options = parser.parse_args()
    report = sweep(
        options.vae,
        options.dit,
        captions=options.captions,
        steps=options.steps,
        guidances=options.guidances,
        shifts=options.shifts,
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    for row in report["rows"]:
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
