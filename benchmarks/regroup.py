"""What regrouping costs: four ranks bring requests from one lane of 4 to two of 2, to four of 1, and back.

    python -m benchmarks.regroup --out benchmarks/results/regroup.json

The embedded model on CPU processes, or another with `--model` and `--device`. Each regrouping is a step plan with
nothing but its moves; the state is the same after a round, and checked to be. For each: milliseconds of a step, of the
slowest move in it, and bytes that ranks received. `denoising`: half-way through a whole clip, no decoder state.
`streaming`: one chunk decoded, one waiting, one in work. `remembering`: the same of a stream whose chunks attend those
before, keys and values of both branches of guidance included.
"""

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import describe_machine
from reelray.cluster.checkpoint_loader import CheckpointLoader, describe_model
from reelray.cluster.model_catalog import PACKAGED
from reelray.proto.chunking import Chunking
from reelray.proto.commit_parts import CHUNK_PART, DECODE_PART
from reelray.proto.events import Stage
from reelray.proto.layout import Layout, Place
from reelray.proto.memory_rule import Commit, MemoryRule
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.step_plan import (
    Admit,
    DecodeStep,
    Move,
    StepPlan,
    StepReport,
    WindowStep,
)
from reelray.workers.engine.gang import Gang, GangSpec
from reelray.workers.engine.local_launcher import LocalLauncher

SPRITES = PACKAGED / "sprites"
FOUR, PAIRS, SINGLES = Layout(ulysses=4), Layout(replica=2, ulysses=2), Layout(replica=4)
CHUNK = 3
MEMORY = MemoryRule(local=9, sink=3, commit=Commit.LAST_STEP)
STEPS = 6


class Driver:
    """Sends hand-made plans to a gang.

    Args:
        gang: The gang, started.
    """

    def __init__(self, gang: Gang) -> None:
        self._gang = gang
        self._sequence = 0

    def run(self, layout: Layout, **parts: Any) -> tuple[StepReport, float]:
        """Carry out one plan; returns its report and milliseconds."""
        plan = StepPlan(sequence=self._sequence, generation=self._gang.generation, layout=layout, **parts)
        self._sequence += 1
        started = time.perf_counter()
        report = self._gang.execute(plan)
        if report.failures:
            raise report.failures[0].error
        return report, (time.perf_counter() - started) * 1e3

    def regroup(self, layout: Layout, moves: dict[RequestId, tuple[Place, Place]]) -> dict[str, float]:
        """Move requests; returns what it cost."""
        listed = tuple(Move(request_id=i, source=source, target=target) for i, (source, target) in moves.items())
        report, step_ms = self.run(layout, moves=listed)
        move_ms = max(cost.seconds for cost in report.costs if cost.stage is Stage.REGROUP) * 1e3
        return {"step_ms": step_ms, "move_ms": move_ms, "bytes": report.moved_bytes}

    def state(self, layout: Layout, request_id: RequestId) -> dict[str, bytes]:
        """What the ranks would write down of a request now."""
        (commit,) = self.run(layout, commits=(request_id,))[0].commits
        return {name: commit.parts[name] for name in (CHUNK_PART, DECODE_PART)}


def request_for(name: str, model: Path, *, streaming: bool, remembers: bool, frames: int) -> RenderRequest:
    """A clip of a checkpoint, whole or in chunks."""
    recipe = describe_model(model).recipe
    chunking = Chunking(latent_frames=CHUNK) if streaming else Chunking()
    recipe = replace(recipe, schedule=replace(recipe.schedule, steps=STEPS), chunking=chunking)
    recipe = replace(recipe, memory=MEMORY) if remembers else recipe
    return RenderRequest(
        request_id=RequestId(name), prompt="a red circle moves left on a blue background", negative_prompt="",
        width=recipe.defaults.width, height=recipe.defaults.height, frames=frames, seed=1, recipe=recipe,
    )  # fmt: skip


def bring_half_way(driver: Driver, layout: Layout, lane: int, request: RenderRequest) -> float:
    """Admit a request and work on it until there is a state worth moving; returns milliseconds of its last window."""
    chunked = request.recipe.chunking.latent_frames
    latent_frames = chunked or (request.frames - 1) // 4 + 1
    window = partial(WindowStep, request_id=request.request_id, latent_frames=latent_frames, lane=lane)
    driver.run(layout, admits=(Admit(request=request, lane=lane),))
    cost_ms = 0.0
    for chunk in range(3 if chunked else 1):
        ends = chunked is not None and chunk < 2
        for step in range(STEPS if ends else STEPS // 2):
            last = step == STEPS - 1
            commits = last and request.recipe.memory is not None
            at = window(chunk=chunk, first_latent_frame=chunk * CHUNK, step=step, last=last, commits=commits)
            report, _ = driver.run(layout, windows=(at,))
            cost_ms = report.costs[0].seconds * 1e3
    if chunked:
        piece = DecodeStep(
            request_id=request.request_id, first_latent_frame=0, latent_frames=CHUNK, last=False, lane=lane
        )
        driver.run(layout, decodes=(piece,))
    return cost_ms


def measure(driver: Driver, model: Path, *, frames: int, runs: int, **kind: bool) -> dict[str, Any]:
    """All regroupings of one case, there and back, `runs` times."""
    a, b = (request_for(name, model, frames=frames, **kind) for name in "ab")
    window_ms = bring_half_way(driver, FOUR, 0, a)
    bring_half_way(driver, PAIRS, 1, b)
    one, pair, single = Place(layout=FOUR), Place(layout=PAIRS), Place(layout=SINGLES)
    other, far = Place(layout=PAIRS, lane=1), Place(layout=SINGLES, lane=2)
    rounds = {
        "4 to 2+2, one request": (PAIRS, {a.request_id: (one, pair)}),
        "2+2 to 1x4, two requests": (SINGLES, {a.request_id: (pair, single), b.request_id: (other, far)}),
        "1x4 to 2+2, two requests": (PAIRS, {a.request_id: (single, pair), b.request_id: (far, other)}),
        "2+2 to 4, one request": (FOUR, {a.request_id: (pair, one)}),
    }
    before = driver.state(FOUR, a.request_id)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in rounds}
    for _ in range(runs + 1):
        for name, (layout, moves) in rounds.items():
            found[name].append(driver.regroup(layout, moves))
    equal = driver.state(FOUR, a.request_id) == before
    driver.run(FOUR, releases=(a.request_id, b.request_id))
    rows = [
        {"regrouping": name, **{key: round(statistics.median(run[key] for run in kept[1:]), 3) for key in kept[0]}}
        for name, kept in found.items()
    ]
    state_bytes = sum(map(len, before.values()))
    return {"rows": rows, "state_bytes": state_bytes, "state_is_equal": equal, "window_ms_on_4": round(window_ms, 1)}


def main() -> None:
    """Run both cases and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/regroup.json"))
    parser.add_argument("--model", type=Path, default=SPRITES)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    spec = GangSpec(
        load=CheckpointLoader(path=options.model.absolute(), device=options.device),
        layout=FOUR, others=(PAIRS, SINGLES), start_s=120.0, threads=max(1, (os.cpu_count() or 1) // 4),
    )  # fmt: skip
    gang = Gang(LocalLauncher(), spec)
    gang.start()
    driver, cases = Driver(gang), {}
    try:
        for name in ("denoising", "streaming", "remembering"):
            kind = {"streaming": name != "denoising", "remembers": name == "remembering"}
            cases[name] = measure(driver, options.model, frames=options.frames, runs=options.runs, **kind)
            print(name, json.dumps(cases[name], indent=1), flush=True)
    finally:
        gang.close()
    report = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "machine": describe_machine(),
        "model": options.model.name, "device": options.device,
        "frames": options.frames, "runs": options.runs, "load": os.getloadavg(), "cases": cases,
    }  # fmt: skip
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    if not all(case["state_is_equal"] for case in cases.values()):
        sys.exit("a state was changed by its moves")


if __name__ == "__main__":
    main()
