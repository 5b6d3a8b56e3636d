"""What the loss of a rank costs: a gang of CPU processes renders, one rank is killed or frozen, the clip stays equal.

    python -m benchmarks.gang_recovery --out benchmarks/results/gang_recovery.json

For each case: seconds from the signal to the leader's notice, seconds until the gang is whole again, processor seconds
that its ranks need from the notice on, processes that went on with the weights they hold, denoise steps done twice, and
the largest difference to the frames of an undisturbed gang. One case kills a rank while there is no work.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.harness import describe_machine
from reelray.cluster.checkpoint_loader import CheckpointLoader, describe_model
from reelray.cluster.model_catalog import PACKAGED
from reelray.proto.events import Frames, Progress, Stage
from reelray.proto.layout import Layout
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.step_plan import StepPlan, StepReport
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.gang import Gang, GangSpec
from reelray.workers.engine.leader import Leader
from reelray.workers.engine.local_launcher import LocalLauncher

SPRITES = PACKAGED / "sprites"
COSTS = ("start_s", "noticed_s", "ready_s", "cpu_s")


@dataclass
class WatchedGang:
    """A gang whose losses are timed.

    Args:
        gang: The gang.
    """

    gang: Gang
    noticed_at: list[float] = field(default_factory=list)
    ready_at: list[float] = field(default_factory=list)
    kept: int = 0
    cpu_s: float = 0.0

    def issue(self, plan: StepPlan) -> None:
        """See `Channel`."""
        self.gang.issue(plan)

    def collect(self) -> StepReport | None:
        """See `Channel`."""
        return self.gang.collect()

    def check(self) -> None:
        """See `Channel`."""
        self.gang.check()

    def rebuild(self) -> int:
        """See `Channel`; called as soon as the leader knows."""
        self.noticed_at.append(time.monotonic())
        before = {pid: cpu_seconds(pid) for pid in self.gang.pids()}
        generation = self.gang.rebuild()
        self.ready_at.append(time.monotonic())
        self.kept = len(before.keys() & set(self.gang.pids()))
        self.cpu_s = sum(cpu_seconds(pid) - before.get(pid, 0.0) for pid in self.gang.pids())
        return generation

    def close(self) -> None:
        """See `Channel`."""
        self.gang.close()


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has taken; 0 if it is gone."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def request_for(frames: int, steps: int) -> RenderRequest:
    """A short clip of the embedded checkpoint."""
    from dataclasses import replace

    recipe = describe_model(SPRITES).recipe
    recipe = replace(recipe, schedule=replace(recipe.schedule, steps=steps))
    return RenderRequest(
        request_id=RequestId("clip"), prompt="a red circle moves left on a blue background", negative_prompt="",
        width=recipe.defaults.width, height=recipe.defaults.height, frames=frames, seed=1, recipe=recipe,
    )  # fmt: skip


def run(layout: Layout, request: RenderRequest, how: signal.Signals | None, at_step: int) -> dict[str, Any]:
    """Render once; when step `at_step` is done, send `how` to the last rank in the middle of the next one.

    With step 0 it is sent, and the gang whole again, before the request comes.
    """
    spec = GangSpec(
        load=CheckpointLoader(path=SPRITES, device="cpu"), layout=layout, silence_s=3.0, start_s=120.0,
        threads=max(1, (os.cpu_count() or 1) // layout.ranks),
    )  # fmt: skip
    started = time.monotonic()
    watched = WatchedGang(Gang(LocalLauncher(), spec))
    watched.gang.start()
    start_s = time.monotonic() - started
    leader = Leader(EngineCore(EngineLimits(commit_s=1.0)), watched, watched.gang.description).start()
    sent_at: list[float] = []

    def strike() -> None:
        victim = max(watched.gang.hellos, key=lambda hello: hello.rank).pid
        sent_at.append(time.monotonic())
        os.kill(victim, how or 0)

    if how is not None and at_step == 0:
        strike()
        while not watched.ready_at:
            time.sleep(0.01)
    parts, steps = [], 0
    for event in leader.submit(request):
        if isinstance(event, Progress) and event.stage is Stage.DENOISE:
            steps += 1
            if how is not None and not sent_at and event.done == at_step:
                threading.Timer(0.1, strike).start()
        elif isinstance(event, Frames):
            parts.append(np.frombuffer(event.data, np.uint8))
    leader.close()
    watched.close()
    return {
        "start_s": start_s,
        "noticed_s": watched.noticed_at[0] - sent_at[0] if sent_at else None,
        "ready_s": watched.ready_at[0] - sent_at[0] if sent_at else None,
        "kept": watched.kept,
        "cpu_s": watched.cpu_s if sent_at else None,
        "steps_again": steps - request.recipe.schedule.length,
        "frames": np.concatenate(parts),
    }


def main() -> None:
    """Run every case and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gang_recovery.json"))
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    request, rows = request_for(options.frames, options.steps), []
    for layout in (Layout(ulysses=2), Layout(cfg=2, ulysses=2)):
        calm = run(layout, request, None, 0)["frames"]
        middle = options.steps // 2
        for how, at_step in ((signal.SIGKILL, middle), (signal.SIGSTOP, middle), (signal.SIGKILL, 0)):
            found = [run(layout, request, how, at_step) for _ in range(options.runs)]
            worst = max(int(np.abs(f["frames"].astype(int) - calm).max()) for f in found)
            row = {"layout": str(layout), "signal": how.name, "at_work": at_step > 0, "frames_differ_by": worst}
            row |= {"runs": options.runs, "ranks": layout.ranks, "kept": min(f["kept"] for f in found)}
            row |= {k: round(statistics.median(f[k] for f in found), 2) for k in COSTS}
            row["steps_again"] = max(f["steps_again"] for f in found)
            rows.append(row)
            print(row, flush=True)
    report = {"date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "machine": describe_machine(), "rows": rows}
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    if any(row["frames_differ_by"] for row in rows):
        sys.exit("a lost rank changed the clip")


if __name__ == "__main__":
    main()
