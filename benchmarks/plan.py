"""What `reelray plan` predicts for the forwards its H200 table was made from, beside what was measured.

    python -m benchmarks.plan

Needs no GPU: the measured side are medians of our own runs on four H200 with NVLink (torch 2.11.0+cu130, bf16), as they
stand in `results/`. Prints a table and writes it as JSON.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reelray.cluster.calibration import load_calibration
from reelray.proto.layout import Layout
from reelray.proto.residency import Residency
from reelray.scheduler.plan.calibration import Calibration
from reelray.scheduler.plan.job import PlanJob, Window
from reelray.scheduler.plan.machine import Link
from reelray.scheduler.plan.prediction import predict_decode_s
from reelray.scheduler.plan.step_time import Setting, predict_step
from reelray.workers.models.registry import describe_preset
from reelray.workers.recipes.presets import load_presets

WIDTH, HEIGHT = 832, 480


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A forward of one window of a Wan text-to-video model at 832x480, or a guided step.

    Args:
        model: Of the presets.
        frames: Pixel frames.
        remembered: Latent frames that are attended besides.
        guided: Both branches of guidance in place of one.
        layout: How ranks share it; empty for one GPU.
        measured_ms: What it took; None where nobody has measured it.
    """

    model: str = "1.3b"
    frames: int = 81
    remembered: int = 0
    guided: bool = False
    layout: str = ""
    measured_ms: float | None = None

    def __str__(self) -> str:
        memory = f" over {self.remembered} latent frames" if self.remembered else ""
        what = "guided step" if self.guided else "forward"
        return f"{self.model} {self.frames} frames{memory}, {what}, {self.layout or 'one GPU'}"


MEASURED = (
    Case(measured_ms=502.7),
    Case(layout="ulysses=2", measured_ms=266.5),
    Case(layout="ring=2", measured_ms=268.3),
    Case(layout="ulysses=4", measured_ms=137.8),
    Case(guided=True, measured_ms=1001.5),
    Case(guided=True, layout="cfg=2,ulysses=2", measured_ms=265.5),
    Case(guided=True, layout="cfg=2,ring=2", measured_ms=270.5),
    Case(guided=True, layout="ulysses=4", measured_ms=275.1),
    Case(frames=9, measured_ms=28.2),
    Case(frames=9, layout="ulysses=4", measured_ms=11.4),
    Case(frames=9, layout="ring=2,ulysses=2", measured_ms=12.2),
    Case(frames=9, guided=True, layout="ulysses=4", measured_ms=22.9),
    Case(frames=9, remembered=9, measured_ms=49.1),
    Case(frames=9, remembered=9, layout="ulysses=2", measured_ms=30.4),
    Case(frames=9, remembered=9, layout="ulysses=4", measured_ms=17.8),
    Case(frames=9, remembered=9, layout="ring=2,ulysses=2", measured_ms=17.0),
    Case(model="14b", measured_ms=2790.9),
    Case(model="14b", layout="ulysses=2", measured_ms=1512.4),
    Case(model="14b", layout="ulysses=4", measured_ms=777.5),
    Case(model="14b", guided=True, measured_ms=5549.4),
    Case(model="14b", guided=True, layout="cfg=2,ulysses=2", measured_ms=1509.6),
)
"""`results/parallel_4x_h200_*.json`, 2026-11-22; those of two ranks while the other two did the same."""
UNMEASURED = (
    Case(model="14b", guided=True, layout="cfg=2,ring=2"),
    Case(model="14b", frames=9, remembered=9, layout="ulysses=4"),
)
DECODES = ((1, 583.0), (4, 175.4))
"""GPUs that share a picture, milliseconds of 81 frames."""


def make_job(case: Case) -> PlanJob:
    """One step of the case."""
    preset = next(preset for preset in load_presets() if preset.recipe.name == f"wan2.1-t2v-{case.model}")
    facts, sizes = describe_preset(preset)
    guided = int(case.guided)
    return PlanJob(
        facts=facts, sizes=sizes, width=WIDTH, height=HEIGHT, frames=case.frames, steps=1, guided_steps=guided
    )


def predict_ms(case: Case, table: Calibration) -> float:
    """Milliseconds of a case by a table."""
    job, layout = make_job(case), Layout.parse(case.layout)
    tokens = job.windows[0].tokens
    remembered = job.facts.tokens(case.remembered, WIDTH, HEIGHT) if case.remembered else 0
    setting = Setting(job=job, layout=layout, residency=Residency(), link=Link.NVLINK, table=table)
    return predict_step(setting, Window(tokens=tokens, attended=tokens + remembered), guided=case.guided).total_ms


def make_row(what: str, predicted_ms: float, measured_ms: float | None) -> dict[str, Any]:
    """A row of the report."""
    error = None if measured_ms is None else round(predicted_ms / measured_ms - 1, 3)
    return {"what": what, "measured_ms": measured_ms, "predicted_ms": round(predicted_ms, 1), "error": error}


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/plan.json"))
    out, table = parser.parse_args().out, load_calibration()
    rows = [make_row(str(case), predict_ms(case, table), case.measured_ms) for case in (*MEASURED, *UNMEASURED)]
    for ranks, measured_ms in DECODES:
        predicted_ms = 1000 * predict_decode_s(make_job(Case()), table, ranks)
        rows.append(make_row(f"1.3b 81 frames, decode, {ranks} GPUs", predicted_ms, measured_ms))
    for row in rows:
        known = "- | {predicted_ms} | -" if row["error"] is None else "{measured_ms} | {predicted_ms} | {error:+.1%}"
        print(f"| {row['what']} | {known.format(**row)} |")
    errors = [abs(row["error"]) for row in rows if row["error"] is not None]
    print(f"mean {sum(errors) / len(errors):.1%}, largest {max(errors):.1%}")
    out.write_text(json.dumps({"measured": "2026-11-22", "table": table.name, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
