"""Error of the displaced patch pipeline: whole clips of the embedded checkpoint through the engine, beside one rank.

python -m benchmarks.patch_pipeline --ranks 2
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.harness import write_report
from reelray.proto.layout import Layout
from reelray.proto.patching import Patching
from reelray.proto.recipe import Recipe
from reelray.proto.request import RenderRequest, RequestId
from reelray.quality.metrics import compare
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.station import Station
from reelray.workers.models.registry import describe_checkpoint
from reelray.workers.models.wan.checkpoint import open_checkpoint
from reelray.workers.parallel.layer_pipeline import LayerPipeline, PipelinedBranches
from reelray.workers.parallel.local_ranks import LocalRank, run_ranks
from reelray.workers.parallel.mesh import Mesh
from reelray.workers.parallel.patch_pipeline import PatchBranches
from reelray.workers.samplers.guidance import Branches, SequentialBranches
from tests.support.render_on import render_on

SPRITES = Path(__file__).parents[1] / "reelray" / "checkpoints" / "sprites"
CLIPS = (
    (1, "a red circle moves left on a blue background"),
    (2, "a yellow star spins on a dark purple background"),
)
PATCHINGS = tuple(Patching(patches=patches, exact_steps=steps) for steps in (1, 2, 4) for patches in (2, 4))

DEADLINE_S = 1800

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is rendered.

    Args:
        folder: The checkpoint.
        recipe: Its recipe, with the steps wished for.
        frames: Frames of a clip.
    """

    folder: Path
    recipe: Recipe
    frames: int

    def requests(self, name: str) -> Iterator[RenderRequest]:
        """One request per clip."""
        defaults = self.recipe.defaults
        for seed, prompt in CLIPS:
            yield RenderRequest(
                request_id=RequestId(f"{name} {seed}"),
                prompt=prompt,
                negative_prompt=defaults.negative_prompt,
                width=defaults.width,
                height=defaults.height,
                frames=self.frames,
                seed=seed,
                recipe=self.recipe,
            )


def render(rank: Rank, request: RenderRequest) -> tuple[bytes, float]:
    """All frames of a clip, and the seconds it took."""
    start = time.perf_counter()
    return render_on(rank, request), time.perf_counter() - start


def run_rank(local: LocalRank, job: Job, layers: int) -> list[tuple[str, list[tuple[bytes, float]]]]:
    """Render every clip in every way on this rank's layers."""
    mesh = Mesh.create([Layout(pipe=local.ranks)], local.device)
    pipeline = LayerPipeline(mesh.lane(Layout(pipe=local.ranks)).pipe, layers)
    model = open_checkpoint(job.folder, device=local.device, layers=pipeline.layers)
    ways: dict[str, Branches] = {"one rank": SequentialBranches()}
    if local.ranks > 1:
        model.use_stages(pipeline)
        ways = {"exact": PipelinedBranches(pipeline)}
        for patching in PATCHINGS:
            ways[f"{patching.patches} patches, {patching.exact_steps} exact"] = PatchBranches(pipeline, patching)
    found = []
    for name, branches in ways.items():
        stations = {Layout(): Station(branches=branches)}
        found.append((name, [render(Rank(model, stations=stations), request) for request in job.requests(name)]))
    mesh.close()
    return found


def as_clip(video: bytes, job: Job) -> "np.ndarray[Any, Any]":
    """Bytes as T, H, W, 3."""
    defaults = job.recipe.defaults
    return np.frombuffer(bytearray(video), dtype=np.uint8).reshape(job.frames, defaults.height, defaults.width, 3)


def measure(job: Job, ranks: int, device: str) -> list[Row]:
    """Render on one rank and on several; compare."""
    layers = describe_checkpoint(job.folder).facts.layers
    # Also in a process of its own: other threads than the ranks have would add up in another order.
    ((_, expected),) = run_ranks(run_rank, job, layers, ranks=1, device=device, deadline_s=DEADLINE_S)[0]
    alone = [as_clip(video, job) for video, _ in expected]
    results = run_ranks(run_rank, job, layers, ranks=ranks, device=device, deadline_s=DEADLINE_S)
    rows = []
    for name, clips in results[0]:
        found = [compare(as_clip(video, job), clip) for (video, _), clip in zip(clips, alone, strict=True)]
        rows.append(
            {
                "what": name,
                "psnr_db": mean(report.psnr_db for report in found),
                "worst_frame_psnr_db": min(report.worst_frame_psnr_db for report in found),
                "ssim": mean(report.ssim for report in found),
                "largest_gap": max(
                    int(np.abs(as_clip(video, job).astype(int) - clip).max())
                    for (video, _), clip in zip(clips, alone, strict=True)
                ),
                "all_ranks_equal": all(
                    dict(result)[name][n][0] == clips[n][0] for result in results for n in range(len(CLIPS))
                ),
                "median_s": sorted(seconds for _, seconds in clips)[len(clips) // 2],
            }
        )
        print(
            f"{name:24} {rows[-1]['psnr_db']:6.2f} dB, worst frame {rows[-1]['worst_frame_psnr_db']:6.2f} dB, "
            f"SSIM {rows[-1]['ssim']:.4f}, largest gap {rows[-1]['largest_gap']}, {rows[-1]['median_s']:.1f} s",
            flush=True,
        )
    return rows


def main() -> None:
    """Render, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/patch_pipeline.json"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    recipe = describe_checkpoint(SPRITES).recipe
    recipe = replace(recipe, schedule=replace(recipe.schedule, steps=options.steps))
    job = Job(folder=SPRITES, recipe=recipe, frames=options.frames)
    rows = measure(job, options.ranks, options.device)
    # JSON has no infinity, which is the PSNR of equal clips.
    finite = [{key: None if value == float("inf") else value for key, value in row.items()} for row in rows]
    write_report(options.out, "patch_pipeline", finite, {})
    if rows[0]["largest_gap"] > 0 or not all(row["all_ranks_equal"] for row in rows):
        sys.exit("wrong result")


if __name__ == "__main__":
    main()
