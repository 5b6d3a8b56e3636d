"""What `reelray plan` predicts for the forwards its H200 table was made from, beside what was measured.

    python -m benchmarks.plan

Needs no GPU: the measured side is the run of 2026-11-20 (diffusers 0.42.1, compiled blocks, cuDNN attention, torch
2.11.0+cu130, one to four H200 with NVLink, medians). Prints a table and writes it as JSON.
"""

import argparse
import json
from pathlib import Path

from reelray.cluster.calibration import load_calibration
from reelray.proto.layout import Layout
from reelray.proto.residency import Residency
from reelray.scheduler.plan.job import PlanJob
from reelray.scheduler.plan.machine import Link
from reelray.scheduler.plan.step_time import Setting, predict_step
from reelray.workers.models.registry import describe_preset
from reelray.workers.recipes.presets import load_presets

SIZES = {"480p": (832, 480), "720p": (1280, 720)}
MEASURED_MS = (
    ("1.3b", "480p", 81, "", 520.0),
    ("1.3b", "480p", 9, "", 36.0),
    ("14b", "480p", 81, "", 2890.0),
    ("14b", "720p", 81, "", 11354.0),
    ("1.3b", "480p", 81, "ulysses=4", 144.6),
    ("1.3b", "480p", 81, "ring=2,ulysses=2", 150.1),
    ("1.3b", "480p", 9, "ulysses=4", 28.9),
    ("14b", "480p", 81, "ulysses=4", 802.9),
    ("14b", "720p", 81, "ulysses=4", 2996.5),
)
"""Model, size, frames, layout, milliseconds of one forward."""


def predict_forward_ms(model: str, size: str, frames: int, layout: str) -> float:
    """Predict one unguided forward of a Wan text-to-video preset."""
    preset = next(preset for preset in load_presets() if preset.recipe.name == f"wan2.1-t2v-{model}")
    facts, sizes = describe_preset(preset)
    width, height = SIZES[size]
    job = PlanJob(facts=facts, sizes=sizes, width=width, height=height, frames=frames, steps=1)
    setting = Setting(
        job=job, layout=Layout.parse(layout), residency=Residency(), link=Link.NVLINK, table=load_calibration()
    )
    return predict_step(setting, job.windows[0], guided=False).total_ms


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/plan.json"))
    out = parser.parse_args().out
    rows = []
    for model, size, frames, layout, measured_ms in MEASURED_MS:
        predicted_ms = predict_forward_ms(model, size, frames, layout)
        error = predicted_ms / measured_ms - 1
        rows.append(
            {
                "model": model,
                "size": size,
                "frames": frames,
                "layout": layout or "one GPU",
                "measured_ms": measured_ms,
                "predicted_ms": round(predicted_ms, 1),
                "error": round(error, 3),
            }
        )
        print(
            f"| {model} {size}, {frames} frames, {layout or 'one GPU'} "
            f"| {measured_ms} | {predicted_ms:.1f} | {error:+.1%} |"
        )
    out.write_text(
        json.dumps({"measured": "2026-11-20", "table": load_calibration().name, "rows": rows}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
