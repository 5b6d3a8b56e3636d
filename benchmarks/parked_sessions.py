"""Streams that are paused and rest in host memory: how long each takes to come back.

    python -m benchmarks.parked_sessions --host-gb 150 --out benchmarks/results/parked_sessions.json
    python -m benchmarks.parked_sessions --storage fp8 --host-gb 90
    python -m benchmarks.parked_sessions --tiny                 # on a CPU, to see that it runs

Random weights of the model's true size, bf16, 480x832, the full VAE in the same engine. Every stream runs until its
memory is full and is then paused. Then each is resumed, makes a chunk, and is paused again. The first of them, resumed
at the end, must give the picture of the same stream that nobody paused, within two levels of 255.

`back_ms` is from the order to resume until all that is remembered and the decoder's state lie on the device again,
ready for the next window; `chunk_ms` until the frames of its next chunk are there. `kept` are streams for which host
memory was full: they kept their room. Memory of a stream: 12 latent frames of 287 MB for LongLive 1.3B, and its
decoder's state; so thirty take some 140 GB of host memory, or half of the pages with `--storage fp8`.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.drawn_model import DrawnLoader
from benchmarks.harness import describe_machine
from benchmarks.stream import largest_change, request_of
from reelray.proto.recipe import Recipe
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.session import Pause, Resume
from reelray.proto.step_plan import StepPlan
from reelray.proto.storage import Storage
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.device_memory import synchronize
from reelray.workers.engine.rank import Rank
from reelray.workers.models.api import VideoModel
from reelray.workers.recipes.presets import presets

TARGET_MS = 150.0


class Engine:
    """A core and its only rank, one plan at a time.

    Args:
        model: The drawn model.
    """

    def __init__(self, model: VideoModel) -> None:
        self._model = model
        self._core, self.rank = EngineCore(EngineLimits(requests=4)), Rank(model)
        self.frames: dict[RequestId, list[bytes]] = {}

    def begin(self, request: RenderRequest) -> None:
        """Take in a stream."""
        self._core.submit(request, self.rank.describe().facts)
        self.frames[request.request_id] = []

    def step(self) -> StepPlan | None:
        """Carry out the next plan; returns it, or None where there is none."""
        plan = self._core.next_step(time.monotonic())
        if plan is None:
            return None
        report = self.rank.execute(plan)
        if report.failures:
            raise report.failures[0].error
        self._core.report(report)
        for frames in report.frames:
            self.frames[frames.request_id].append(frames.data)
            self._core.acknowledge(frames.request_id, frames.count)
        return plan

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Go on until then, or until nothing is left to do."""
        while not until() and self.step() is not None:
            pass

    def has_made(self, name: RequestId, pieces: int) -> bool:
        """Whether so many pieces of a stream are decoded."""
        return len(self.frames[name]) >= pieces

    def pause(self, name: RequestId) -> None:
        """Pause a stream and have it put to rest."""
        self._core.tell(name, Pause())
        self.run()
        synchronize(self._model.device)

    def resume(self, name: RequestId) -> tuple[float, float]:
        """Resume a stream; returns seconds until it is back, and until it has made its next chunk."""
        count = len(self.frames[name])
        synchronize(self._model.device)
        begun = time.perf_counter()
        self._core.tell(name, Resume())
        self.step()
        synchronize(self._model.device)
        back_s = time.perf_counter() - begun
        self.run(partial(self.has_made, name, count + 1))
        return back_s, time.perf_counter() - begun


def count_resting(engine: Engine) -> int:
    """Streams whose memory lies in host memory."""
    held = engine.rank._held  # noqa: SLF001  nobody else asks
    memories = [one.forwards.memory for one in held.values()]
    return sum(memory is not None and memory.rests for memory in memories)


def run(model: VideoModel, recipe: Recipe, sessions: int, *, tiny: bool) -> dict[str, Any]:
    """Park so many streams, and resume each."""
    assert recipe.memory is not None
    chunk = recipe.chunking.latent_frames or 1
    full = -(-recipe.memory.attended // chunk)
    requests = [request_of(recipe, f"stream {n}", full + 4, seed=n, tiny=tiny) for n in range(sessions)]
    engine = Engine(model)
    engine.begin(replace(requests[0], request_id=RequestId("alone")))
    engine.run()
    for request in requests:
        name = request.request_id
        engine.begin(request)
        engine.run(partial(engine.has_made, name, full + 1))
        engine.pause(name)
    resting = count_resting(engine)
    back_ms, chunk_ms = [], []
    for request in requests[1:] + requests[:1]:
        back_s, chunk_s = engine.resume(request.request_id)
        back_ms.append(1e3 * back_s)
        chunk_ms.append(1e3 * chunk_s)
        if request is not requests[0]:
            engine.pause(request.request_id)
    engine.run()
    engine.rank.close()
    return {
        "sessions": sessions,
        "resting": resting,
        "kept": sessions - resting,
        "rested_differs_by": largest_change(*(engine.frames[RequestId(name)] for name in ("alone", "stream 0"))),
        "back_ms": {"median": statistics.median(back_ms), "worst": max(back_ms), "all": back_ms},
        "chunk_ms": {"median": statistics.median(chunk_ms), "worst": max(chunk_ms)},
        "target_ms": TARGET_MS,
    }


def main() -> None:
    """Park, resume, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=30)
    parser.add_argument("--recipe", default="longlive-1.3b")
    parser.add_argument("--storage", choices=[str(storage) for storage in Storage], default=str(Storage.EXACT))
    parser.add_argument("--host-gb", type=float, help="host memory for streams that rest; half of what is free")
    parser.add_argument("--tiny", action="store_true", help="shrink network and picture")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/parked_sessions.json"))
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = presets()[options.recipe]
    assert recipe.memory is not None
    recipe = replace(recipe, memory=replace(recipe.memory, storage=Storage(options.storage)))
    model = DrawnLoader(preset="wan2.1-t2v-1.3b", device=device, tiny=options.tiny)()
    model.host_bytes = None if options.host_gb is None else int(options.host_gb * 1e9)
    row = {"recipe": options.recipe, "storage": options.storage}
    row |= run(model, recipe, options.sessions, tiny=options.tiny)
    print(row, flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"case": "parked_sessions", "machine": describe_machine(), "row": row}
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    if row["rested_differs_by"] > 2:
        sys.exit("wrong result: a stream that rested gave other frames")


if __name__ == "__main__":
    main()
