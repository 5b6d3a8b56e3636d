"""Few-step streams with decode on the ranks that denoise, and on ranks of its own: throughput, and the plan's choice.

    python -m benchmarks.decode_placement --device cuda --ranks 2
    python -m benchmarks.decode_placement --device cpu --tiny

Chunks of three latent frames (twelve pixel frames), two and five forwards each, no guidance, weights drawn at random.
For each number of decode ranks the plan names the fastest layout (on CPUs, of those that use all ranks); a gang of each
is started and they render in turn. First every gang's frames are compared with those of one rank. `choice` is the
placement that `reelray render` would take by the calibration table; `by_parts` follows the same rule with the denoise
and decode times measured here, and so tells a wrong rule from a table of another machine. `share` is the chosen one's
throughput over the better one's.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.drawn_model import DrawnLoader
from benchmarks.harness import describe_machine
from reelray.cluster.calibration import load_calibration
from reelray.cluster.decode_choice import choose_decode, list_choices
from reelray.cluster.local_engine import LocalEngine
from reelray.proto.chunking import Chunking
from reelray.proto.events import Done, Frames
from reelray.proto.placement import Placement
from reelray.proto.recipe import Guidance, Schedule, Solver
from reelray.proto.request import RenderRequest, RenderSummary, RequestId
from reelray.scheduler.limits import EngineLimits
from reelray.scheduler.plan.choice import choose, rank_layouts
from reelray.scheduler.plan.job import PlanJob
from reelray.scheduler.plan.legality import list_lanes
from reelray.scheduler.plan.lending_plan import plan_lending, with_lending
from reelray.scheduler.plan.machine import Machine
from reelray.scheduler.plan.prediction import Prediction, total_s
from reelray.workers.engine.gang import GangSpec

PRESET = "wan2.1-t2v-1.3b"
CHUNK = 3
STEPS = (2, 5)
FULL, TINY = (832, 480), (320, 192)
TARGET = 0.9
TINY_LAYERS = 24
"""With these a forward of the shrunk transformer takes a part of a chunk's decode, as at full size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One stream.

    Args:
        loader: Draws the model.
        steps: Forwards of a chunk.
        chunks: Length.
        ranks: In all.
    """

    loader: DrawnLoader
    steps: int
    chunks: int
    ranks: int

    @property
    def size(self) -> tuple[int, int]:
        """Pixels."""
        return TINY if self.loader.tiny else FULL

    @property
    def frames(self) -> int:
        """Pixel frames."""
        return self.loader.source.facts.frames(CHUNK * self.chunks)

    def request(self, name: str) -> RenderRequest:
        """The stream as a request."""
        recipe = replace(
            self.loader.recipe_preset.recipe,
            schedule=Schedule(solver=Solver.EULER, steps=self.steps),
            guidance=Guidance(scale=1.0),
            chunking=Chunking(latent_frames=CHUNK),
        )
        width, height = self.size
        return RenderRequest(
            request_id=RequestId(name), prompt="a cat surfs", negative_prompt="", width=width, height=height,
            frames=self.frames, seed=1, recipe=recipe,
        )  # fmt: skip

    def job(self) -> PlanJob:
        """The stream as the plan sees it; chunks attend themselves alone."""
        width, height = self.size
        return PlanJob(
            facts=self.loader.source.facts, sizes=self.loader.source.sizes, width=width, height=height,
            frames=self.frames, steps=self.steps, chunking=Chunking(latent_frames=CHUNK),
            value_bytes=4 if self.loader.device == "cpu" else 2,
        )  # fmt: skip


def predict(case: Case, memory_bytes: int) -> dict[int, tuple[Prediction, Placement]]:
    """The best placement of each number of decode ranks, as `reelray render` would find it."""
    job, table = case.job(), load_calibration()
    machine = Machine(gpus=case.ranks, memory_bytes=memory_bytes)
    found: dict[int, tuple[Prediction, Placement]] = {}
    for count in list_choices(None, case.ranks, None):
        rows = [r for r in rank_layouts(job, machine, table, decode_ranks=count) if r.layout.pipe == 1]
        if case.loader.device == "cpu":  # a GPU's table thinks that to share so little gains nothing
            rows = [r for r in rows if r.layout.lane == case.ranks - count]
        row = choose(rows)
        if row is None:
            continue
        layout = replace(row.layout, replica=1)
        lending = plan_lending(job, machine, table, row, list_lanes(job, machine)) if count else None
        placement = Placement(layout=layout, decode_ranks=count, lending=lending)
        found[count] = with_lending(job, row, lending), placement
    return found


@contextmanager
def open_engine(case: Case, placement: Placement, *, limit_s: float) -> Iterator[LocalEngine]:
    """A gang of a placement."""
    spec = GangSpec(
        load=case.loader, layout=placement.layout, decode_ranks=placement.decode_ranks, lending=placement.lending,
        start_s=limit_s, threads=max(1, (os.cpu_count() or 1) // case.ranks),
    )  # fmt: skip
    engine = LocalEngine.open_gang(spec, limits=EngineLimits(decode_latent_frames=CHUNK))
    try:
        yield engine
    finally:
        engine.close()


def render(engine: LocalEngine, request: RenderRequest) -> tuple[torch.Tensor, float, RenderSummary]:
    """Frames, seconds from the request to the last frame, and the summary."""
    parts: list[torch.Tensor] = []
    summary: RenderSummary | None = None
    started = time.perf_counter()
    for event in engine.render(request):
        if isinstance(event, Frames):
            parts.append(torch.frombuffer(bytearray(event.data), dtype=torch.uint8))
        elif isinstance(event, Done):
            summary = event.summary
    took_s = time.perf_counter() - started
    assert summary is not None, "a stream ends with Done or an error"
    return torch.cat(parts), took_s, summary


def compare(found: torch.Tensor, wanted: torch.Tensor) -> dict[str, float]:
    """How far frames are from those of one rank."""
    gap = (found.int() - wanted.int()).abs()
    return {"max_levels": int(gap.max()), "changed": float((gap > 0).float().mean())}


def measure(case: Case, plans: dict[int, tuple[Prediction, Placement]], *, runs: int, limit_s: float) -> dict[str, Any]:
    """One case: check, then time the placements in turn."""
    with open_engine(replace(case, ranks=1), Placement(), limit_s=limit_s) as alone:
        wanted, _, _ = render(alone, case.request("alone"))
    rows: dict[int, dict[str, Any]] = {}
    with ExitStack() as stack:
        engines = {
            count: stack.enter_context(open_engine(case, placement, limit_s=limit_s))
            for count, (_, placement) in plans.items()
        }
        samples: dict[int, list[tuple[float, dict[str, float]]]] = {count: [] for count in engines}
        for run in range(runs + 1):
            for count, engine in engines.items():
                found, took_s, summary = render(engine, case.request(f"r{run}-{count}"))
                if run:
                    samples[count].append((took_s, summary.stage_s))
                else:
                    rows[count] = {"placement": str(plans[count][1]), **compare(found, wanted)}
    for count, taken in samples.items():
        clip_s = statistics.median(took for took, _ in taken)
        parts = {
            f"{name}_s": round(statistics.median(stages.get(name, 0.0) for _, stages in taken), 4)
            for name in ("text", "denoise", "decode")
        }
        rows[count] |= {
            "frames_per_s": round(case.frames / clip_s, 2), "clip_s": round(clip_s, 4), **parts,
            "predicted_s": round(plans[count][0].clip_s, 4), "runs_s": [round(took, 4) for took, _ in taken],
        }  # fmt: skip
    return {"steps": case.steps, "chunk": CHUNK, "frames": case.frames, "placements": rows, **judge(case, plans, rows)}


def judge(
    case: Case, plans: dict[int, tuple[Prediction, Placement]], rows: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """What the choice reaches of the better placement: by the table, and by the parts measured here."""
    best = max(row["frames_per_s"] for row in rows.values())
    predicted = {count: row for count, (row, _) in plans.items()}
    measured = {
        count: replace(
            row,
            clip_s=total_s(
                case.job(),
                rows[count]["text_s"] + rows[count]["denoise_s"],
                rows[count]["decode_s"],
                decode_ranks=count,
            ),
        )
        for count, row in predicted.items()
    }
    choice, by_parts = choose_decode(predicted), choose_decode(measured)
    return {
        "choice": choice,
        "share": round(rows[choice]["frames_per_s"] / best, 4),
        "by_parts": by_parts,
        "share_by_parts": round(rows[by_parts]["frames_per_s"] / best, 4),
        "by_parts_s": {count: round(row.clip_s, 4) for count, row in measured.items()},
    }


def main() -> None:
    """Check, time, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/decode_placement.json"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--preset", default=PRESET)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300, help="seconds until a gang is ready")
    parser.add_argument("--tiny", action="store_true", help="a shrunk network and picture, for CPUs")
    options = parser.parse_args()
    layers = TINY_LAYERS if options.tiny else None
    loader = DrawnLoader(preset=options.preset, device=options.device, tiny=options.tiny, layers=layers)
    memory = torch.cuda.get_device_properties(0).total_memory if options.device == "cuda" else 2**36
    cases = []
    for steps in STEPS:
        case = Case(loader=loader, steps=steps, chunks=options.chunks, ranks=options.ranks)
        cases.append(measure(case, predict(case, memory), runs=options.runs, limit_s=options.limit))
        print(json.dumps(cases[-1], indent=1), flush=True)
    report = {
        "case": "decode_placement", "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": describe_machine(), "preset": options.preset, "tiny": options.tiny, "device": options.device,
        "ranks": options.ranks, "load": os.getloadavg(), "table": load_calibration().name, "cases": cases,
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    exact = options.device == "cpu"  # bfloat16 moves by more, and random weights spread it
    wrong = [
        row
        for case in cases
        for row in case["placements"].values()
        if exact and (row["max_levels"] > 1 or row["changed"] > 0.001)
    ]
    if wrong:
        sys.exit(f"not the frames of one rank: {wrong}")
    missed = [case["steps"] for case in cases if case["share_by_parts"] < TARGET]
    if missed:
        sys.exit(f"the rule reaches less than {TARGET:.0%} of the better placement with {missed} forwards")


if __name__ == "__main__":
    main()
