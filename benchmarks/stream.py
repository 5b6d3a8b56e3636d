"""Streams through the engine: frames per second once the memory is full, first frame, gaps between chunks.

    python -m benchmarks.stream --out benchmarks/results/stream.json
    python -m benchmarks.stream --cases longlive sessions --chunks 16
    python -m benchmarks.stream --cases longlive-preview diagdistill-preview --out /tmp/preview.json
    python -m benchmarks.stream --cases longlive diagdistill longlive-14b --layout ulysses=4 --out /tmp/four.json
    python -m benchmarks.stream --cases longlive --layout ulysses=3 --decode-ranks 1 --out /tmp/beside.json
    python -m benchmarks.stream --tiny                          # on a CPU, to see that it runs

Random weights of the model's true size, bf16, the full VAE in the same engine, in the cases of previews a tiny decoder
(TAEHV's layout). Correctness first: the same stream again must give the same picture, within two levels of 255; the
second time it runs by recorded graphs from its first window on. What is timed comes third and finds the engine warm.

Frames per second count chunks that begin with a full memory, without the last one. `remember_ms` are clean passes. The
gap of a chunk is the time between its frames and those before, as a client sees it. With several sessions the figures
are of the time while all of them run. With `--layout` a gang of processes makes them, one GPU each.
"""

import argparse
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.drawn_model import DrawnLoader
from benchmarks.harness import describe_machine, profile_kernels
from reelray.cluster.local_engine import LocalEngine
from reelray.proto.decoder import Decoder
from reelray.proto.engine_description import EngineDescription
from reelray.proto.events import Frames, Stage
from reelray.proto.layout import Layout
from reelray.proto.placement import Placement
from reelray.proto.recipe import Recipe
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.step_plan import StepPlan, StepReport
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.gang import Gang, GangSpec
from reelray.workers.engine.local_launcher import LocalLauncher
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.seams import Channel
from reelray.workers.models.wan.bench_source import TINY_TEXT_TOKENS
from reelray.workers.recipes.presets import presets

SESSIONS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is timed.

    Args:
        model: Preset whose network is drawn.
        recipe: Preset by which it streams.
        sessions: At once.
        target_fps: Frames per second to be reached by one GPU, of all sessions; None where it is only reported.
        target_fps_of_four: The same of four GPUs.
        decoder: What makes the pictures.
    """

    model: str
    recipe: str
    sessions: int = 1
    target_fps: float | None = None
    target_fps_of_four: float | None = None
    decoder: Decoder = Decoder.WAN_EXACT_STREAM


SMALL, LARGE = "wan2.1-t2v-1.3b", "wan2.1-t2v-14b"
CASES = {
    "longlive": Case(model=SMALL, recipe="longlive-1.3b", target_fps=34.0, target_fps_of_four=105.0),
    "diagdistill": Case(model=SMALL, recipe="diagdistill-1.3b", target_fps=55.0, target_fps_of_four=170.0),
    "self-forcing": Case(model=SMALL, recipe="self-forcing-1.3b", target_fps=24.0),
    "rolling-forcing": Case(model=SMALL, recipe="rolling-forcing-1.3b"),
    "block-cascading": Case(model=SMALL, recipe="block-cascading-1.3b"),
    "streamdiffusion-v2": Case(model=SMALL, recipe="streamdiffusion-v2-1.3b"),
    "sessions": Case(model=SMALL, recipe="longlive-1.3b", sessions=SESSIONS),
    "longlive-preview": Case(model=SMALL, recipe="longlive-1.3b", target_fps=42.0, decoder=Decoder.TAEHV_STREAM),
    "diagdistill-preview": Case(model=SMALL, recipe="diagdistill-1.3b", target_fps=95.0, decoder=Decoder.TAEHV_STREAM),
    "longlive-14b": Case(model=LARGE, recipe="longlive-1.3b", target_fps=7.0, target_fps_of_four=26.0),
}


@dataclass(kw_only=True)
class Watched:
    """A rank, or a gang of them, whose reports are kept with the time at which they came.

    Args:
        rank: The rank, or the gang.
    """

    rank: Channel
    costs: list[tuple[float, Stage, float]] = field(default_factory=list)

    def issue(self, plan: StepPlan) -> None:
        """See `Channel`."""
        self.rank.issue(plan)

    def collect(self) -> StepReport | None:
        """See `Channel`."""
        report = self.rank.collect()
        if report is not None:
            self.costs += [(time.perf_counter(), cost.stage, cost.seconds) for cost in report.costs]
        return report

    def check(self) -> None:
        """See `Channel`."""
        self.rank.check()

    def rebuild(self) -> int:
        """See `Channel`."""
        return self.rank.rebuild()

    def close(self) -> None:
        """See `Channel`."""
        self.rank.close()


@dataclass(kw_only=True)
class Played:
    """What a client saw of one stream.

    Args:
        began_at: When it was asked for.
        arrivals: When frames came, and how many.
        frames: The frames, where they are kept.
    """

    began_at: float
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)


def play(engine: LocalEngine, request: RenderRequest, *, keep: bool = False) -> Played:
    """Take a stream's frames as they come."""
    played = Played(began_at=time.perf_counter())
    for event in engine.render(request):
        if isinstance(event, Frames):
            played.arrivals.append((time.perf_counter(), event.count))
            if keep:
                played.frames.append(event.data)
    return played


def play_together(engine: LocalEngine, requests: Sequence[RenderRequest]) -> list[Played]:
    """The same of several at once."""
    found: dict[int, Played] = {}

    def run(number: int) -> None:
        found[number] = play(engine, requests[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[number] for number in range(len(requests))]


def request_of(recipe: Recipe, name: str, chunks: int, *, seed: int = 0, tiny: bool = False) -> RenderRequest:
    """A stream of so many chunks."""
    latent_frames = chunks * (recipe.chunking.latent_frames or 1)
    width, height = (64, 64) if tiny else (832, 480)
    return RenderRequest(
        request_id=RequestId(name),
        prompt="drawn",
        negative_prompt="",
        frames=4 * (latent_frames - 1) + 1,
        seed=seed,
        width=width,
        height=height,
        recipe=replace(recipe, text_tokens=TINY_TEXT_TOKENS) if tiny else recipe,
    )


def largest_change(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """Levels of 255 by which two streams differ at most."""
    pairs = zip(one, other, strict=True)
    return max(
        int(np.abs(np.frombuffer(a, np.uint8).astype(np.int16) - np.frombuffer(b, np.uint8)).max()) for a, b in pairs
    )


def measure(played: Sequence[Played], watched: Watched, full: int) -> dict[str, Any]:
    """Rates of the time in which every stream runs with a full memory.

    Args:
        played: The streams.
        watched: The rank.
        full: Chunks until the memory is full.
    """
    begin = max(one.arrivals[full][0] for one in played)
    # The last chunk has nothing beside it, and comes sooner after the one before it than any other.
    end = min(one.arrivals[-2][0] for one in played)
    frames = sum(count for one in played for at, count in one.arrivals if begin < at <= end)
    gaps = [b - a for one in played for a, b in _gaps(one) if begin <= a and b <= end]
    spent = {stage: [s for at, what, s in watched.costs if what is stage and begin < at <= end] for stage in Stage}
    return {
        "fps": frames / (end - begin),
        "first_frame_ms": [1e3 * (one.arrivals[0][0] - one.began_at) for one in played],
        "median_gap_ms": 1e3 * statistics.median(gaps),
        "p95_gap_ms": 1e3 * float(np.quantile(gaps, 0.95)),
        "worst_gap_ms": 1e3 * max(gaps),
        "denoise_step_ms": _median_ms(spent[Stage.DENOISE]),
        "ms_of_12_frames": {stage.value: 1e3 * sum(costs) * 12 / frames for stage, costs in spent.items() if costs},
        "slowest_tenth_ms": {
            stage.value: 1e3 * float(np.quantile(costs, 0.9)) for stage, costs in spent.items() if costs
        },
        "remember_ms": _median_ms(spent[Stage.REMEMBER]),
        "decode_piece_ms": _median_ms(spent[Stage.DECODE]),
        "outside_share": 1 - sum(map(sum, spent.values())) / (end - begin),
        "frames": frames,
        "seconds": end - begin,
    }


def _gaps(one: Played) -> list[tuple[float, float]]:
    return list(pairwise(at for at, _ in one.arrivals))


def _median_ms(seconds: Sequence[float]) -> float | None:
    return 1e3 * statistics.median(seconds) if seconds else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Where cases run.

    Args:
        watched: The rank, or the gang.
        description: What runs there.
        placement: How ranks share a stream.
        chunks: Of every stream.
        tiny: Shrink the picture.
        profile: List kernels.
    """

    watched: Watched
    description: EngineDescription
    placement: Placement
    chunks: int
    tiny: bool
    profile: bool

    def open_engine(self, sessions: int) -> LocalEngine:
        """An engine; closing it closes the ranks."""
        return LocalEngine(
            self.watched,
            self.description,
            limits=EngineLimits(requests=max(4, sessions)),
            layouts=(self.placement.layout,),
            decode_ranks=self.placement.decode_ranks,
        )

    def target(self, case: Case) -> float | None:
        """Frames per second to be reached."""
        return {1: case.target_fps, 4: case.target_fps_of_four}.get(self.placement.ranks)


def run_case(case: Case, bench: Bench) -> dict[str, Any]:
    """Check one case, then time it."""
    recipe = replace(presets()[case.recipe], decoder=case.decoder)
    assert recipe.memory is not None
    full = -(-recipe.memory.attended // (recipe.chunking.latent_frames or 1))
    chunks, tiny = bench.chunks, bench.tiny
    with bench.open_engine(case.sessions) as engine:
        cold, warm = (play(engine, request_of(recipe, name, chunks, tiny=tiny), keep=True) for name in ("cold", "warm"))
        differs = largest_change(cold.frames, warm.frames)
        row: dict[str, Any] = {"recipe": case.recipe, "model": case.model, "sessions": case.sessions}
        row |= {"decoder": case.decoder.value, "placement": str(bench.placement)}
        row |= {"chunks": chunks, "same_stream_again_differs_by": differs}
        print(f"{case.recipe}: again differs by {differs} of 255", flush=True)
        bench.watched.costs.clear()
        requests = [
            request_of(recipe, f"stream {number}", chunks, seed=number, tiny=tiny) for number in range(case.sessions)
        ]
        played = play_together(engine, requests)
        row |= measure(played, bench.watched, full) | {"target_fps": bench.target(case)}
        if torch.cuda.is_available() and bench.placement.ranks == 1:
            row["peak_bytes"] = torch.cuda.max_memory_allocated()
            row["allocator_retries"] = torch.cuda.memory_stats()["num_alloc_retries"]
        if bench.profile:
            last = request_of(recipe, "profiled", full + 3, tiny=tiny)
            row["kernels_of_a_stream"] = profile_kernels(lambda: play(engine, last), count=40)
            row["kernels_of_chunks"] = full + 3
    return row


def open_gang(loader: DrawnLoader, placement: Placement) -> Gang:
    """Processes with a GPU each, or on CPUs."""
    spec = GangSpec(
        load=loader,
        layout=placement.layout,
        decode_ranks=placement.decode_ranks,
        threads=max(1, (os.cpu_count() or 1) // placement.ranks),
    )
    gang = Gang(LocalLauncher(), spec)
    try:
        gang.start()
    except BaseException:
        gang.close()
        raise
    return gang


def main() -> None:
    """Run the cases, print a table, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--chunks", type=int, default=20, help="of every stream")
    parser.add_argument("--profile", action="store_true", help="list the kernels of a short stream")
    parser.add_argument("--tiny", action="store_true", help="shrink network and picture")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/stream.json"))
    parser.add_argument("--layout", default="", help="of a gang, such as ulysses=4; default: one GPU in this process")
    parser.add_argument("--decode-ranks", type=int, default=0, help="behind those of the layout")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    placement = Placement(layout=Layout.parse(options.layout), decode_ranks=options.decode_ranks)
    rows: dict[str, Any] = {}
    model, drawn = None, ""
    for name in options.cases:
        case = CASES[name]
        loader = DrawnLoader(preset=case.model, device=device, tiny=options.tiny, preview=True)
        channel: Gang | Rank
        if placement.ranks > 1:
            channel = open_gang(loader, placement)
            description = channel.description
        else:
            if drawn != case.model:
                model = None
                torch.cuda.empty_cache()
                model, drawn = loader(), case.model
            assert model is not None
            channel = Rank(model)
            description = channel.describe()
        bench = Bench(
            watched=Watched(rank=channel), description=description, placement=placement, chunks=options.chunks,
            tiny=options.tiny, profile=options.profile,
        )  # fmt: skip
        rows[name] = run_case(case, bench)
        shown = {k: v for k, v in rows[name].items() if not k.startswith("kernels")}
        print(name, shown, flush=True)
        report = {"case": "stream", "machine": describe_machine(), "rows": rows}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    if any(row["same_stream_again_differs_by"] > 2 for row in rows.values()):
        sys.exit("wrong result: the same stream gave other frames")


if __name__ == "__main__":
    main()
