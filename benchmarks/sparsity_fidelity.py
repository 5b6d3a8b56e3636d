"""How far sparse attention moves a clip of the sprites model: each method at several densities against dense attention.

    python -m benchmarks.sparsity_fidelity --clips 8 --plot docs/images/sparsity_fidelity.png
    python -m benchmarks.sparsity_fidelity --clips 1 --frames 17 --methods sub_block radial --densities 0.5

Held-out captions, the same seed with and without. Beside each method: another seed, half of the steps, and the same
request twice, so that a number has something to be held against. Densities are those that were attended, as blocks that
are always kept count too; a fixed pattern has the density that its options give it. Dense where the policy says so, as
in `--sparsity METHOD,density=X,forced=yes`. The detector judges each clip; PSNR is the mean over clips.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import reelray
from benchmarks.harness import describe_machine
from examples.train_sprites.evaluate import request_for
from examples.train_sprites.scenes import sample_held_out_captions
from reelray.cluster.checkpoint_loader import CheckpointLoader, choose_device
from reelray.cluster.local_engine import LocalEngine
from reelray.proto.events import Done, Frames
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.sparsity import FIXED, TRAINED, SparseMethod
from reelray.proto.sparsity_text import parse_sparsity
from reelray.quality.metrics import psnr, ssim
from reelray.quality.sprites.detector import score
from reelray.quality.sprites.scene import Scene

METHODS = tuple(method for method in SparseMethod if method not in TRAINED)
DENSITIES = (0.75, 0.5, 0.35, 0.25, 0.1)
OPTIONS = {
    SparseMethod.RADIAL: ("decay=2", "decay=1", "decay=0.5", "decay=0.2"),
    SparseMethod.SLIDING_TILE: ("window_frames=5", "window_frames=3", "window_frames=3,window_rows=1,window_columns=1"),
    SparseMethod.FRAME_DIAGONAL: ("reach=4,references=4", "reach=2,references=2", "reach=0,references=2"),
    SparseMethod.STRIPES: ("every=2", "every=4", "every=8"),
    SparseMethod.BLOCK_DIAGONAL: ("blocks=16", "blocks=8", "blocks=4"),
}
SPRITES = Path(reelray.__file__).parent / "checkpoints" / "sprites"
Clip = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A clip and what was attended for it."""

    frames: Clip
    density: float | None
    sparse_share: float
    denoise_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One caption and the clip of dense attention."""

    request: RenderRequest
    scene: Scene
    dense: Made


def make(engine: LocalEngine, request: RenderRequest) -> Made:
    """Render."""
    parts, density, share, denoise_s = [], None, 0.0, 0.0
    for event in engine.render(request):
        if isinstance(event, Frames):
            data = np.frombuffer(event.data, np.uint8)
            parts.append(data.reshape(event.count, event.height, event.width, 3))
        if isinstance(event, Done):
            denoise_s = event.summary.stage_s["denoise"]
            if (told := event.summary.sparsity) is not None:
                density, share = told.use.density, 1 - told.use.dense / told.use.calls
    return Made(frames=np.concatenate(parts), density=density, sparse_share=share, denoise_s=denoise_s)


def again(request: RenderRequest, **changes: Any) -> RenderRequest:
    """The request under another name, since an engine takes each name once."""
    return replace(request, request_id=RequestId(f"{request.request_id}-{time.monotonic_ns()}"), **changes)


def policies(methods: Sequence[SparseMethod], densities: Sequence[float], more: str) -> Iterator[tuple[str, str]]:
    """Method and text of every policy."""
    for method in methods:
        settings = OPTIONS[method] if method in FIXED else [f"density={density:g}" for density in densities]
        for setting in settings:
            rows = "" if method is SparseMethod.DRAFT else ",rows=64"
            yield method, f"{method},{setting}{rows},forced=yes{more}"


def compare(name: str, setting: str, subjects: Sequence[Subject], made: Sequence[Made]) -> dict[str, Any]:
    """One row: how far these clips are from those of dense attention, and what the detector says."""
    pairs = list(zip(made, subjects, strict=True))
    decibels = [psnr(one.frames, subject.dense.frames) for one, subject in pairs]
    verdicts = [score(one.frames, subject.scene).is_all_right for one, subject in pairs]
    densities = [one.density for one in made if one.density is not None]
    return {
        "name": name,
        "setting": setting,
        "density": round(statistics.mean(densities), 4) if densities else None,
        "sparse_share": round(statistics.mean(one.sparse_share for one in made), 4),
        "psnr": round(statistics.mean(min(value, 99.0) for value in decibels), 2),
        "worst_psnr": round(min(*decibels, 99.0), 2),
        "ssim": round(statistics.mean(ssim(one.frames, subject.dense.frames) for one, subject in pairs), 4),
        "all_right": round(statistics.mean(verdicts), 4),
        "denoise_ratio": round(statistics.median(one.denoise_s / subject.dense.denoise_s for one, subject in pairs), 3),
    }


def anchors(engine: LocalEngine, subjects: Sequence[Subject]) -> Iterator[dict[str, Any]]:
    """What the numbers of methods are held against."""
    half = {id(s): replace(s.request.recipe.schedule, steps=s.request.recipe.schedule.steps // 2) for s in subjects}
    same = [make(engine, again(s.request)) for s in subjects]
    fewer = [make(engine, again(s.request, recipe=replace(s.request.recipe, schedule=half[id(s)]))) for s in subjects]
    other = [make(engine, again(s.request, seed=s.request.seed + 1000)) for s in subjects]
    yield compare("dense", "the same again", subjects, same)
    yield compare("half of the steps", "", subjects, fewer)
    yield compare("another seed", "", subjects, other)


def draw(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """PSNR and the detector's share over density, a line for each method."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5))
    lines = [name for name in dict.fromkeys(row["name"] for row in rows) if any(known(row, name) for row in rows)]
    for name in lines:
        points = sorted((row["density"], row["psnr"], 100 * row["all_right"]) for row in rows if known(row, name))
        left.plot([p[0] for p in points], [p[1] for p in points], marker="o", label=name)
        right.plot([p[0] for p in points], [p[2] for p in points], marker="o", label=name)
    for row in rows:
        if row["density"] is None and row["psnr"] < 99:
            left.axhline(row["psnr"], linestyle=":", color="grey")
            left.annotate(row["name"], (0, row["psnr"]), fontsize=8)
    left.set(xlabel="share of blocks attended where attention is sparse", ylabel="PSNR to dense attention, dB")
    right.set(
        xlabel="share of blocks attended where attention is sparse", ylabel="clips that the detector finds right, %"
    )
    right.legend(fontsize=8)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def known(row: dict[str, Any], name: str) -> bool:
    """Whether a row is a point of this line."""
    return bool(row["name"] == name and row["density"] is not None)


def main(args: Sequence[str] | None = None) -> None:
    """Render, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sparsity_fidelity.json"))
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--model", type=Path, default=SPRITES)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, help="pixel frames of a clip; the model's default if left out")
    parser.add_argument("--steps", type=int, help="denoise steps; the model's default if left out")
    parser.add_argument("--methods", nargs="+", type=SparseMethod, choices=METHODS, default=METHODS)
    parser.add_argument("--densities", nargs="+", type=float, default=DENSITIES)
    parser.add_argument("--policy", default="", help="more of the policy, such as dense_share=0,compensate=no")
    options = parser.parse_args(args)
    more = f",{options.policy}" if options.policy else ""
    rows: list[dict[str, Any]] = []
    with LocalEngine.open(CheckpointLoader(path=options.model, device=choose_device(options.device))) as engine:
        subjects = []
        for number, (caption, scene) in enumerate(sample_held_out_captions(options.clips, seed=1)):
            request = request_for(number, caption, options.model)
            if options.steps:
                schedule = replace(request.recipe.schedule, steps=options.steps)
                request = replace(request, recipe=replace(request.recipe, schedule=schedule))
            request = replace(request, frames=options.frames or request.frames)
            subjects.append(Subject(request=request, scene=scene, dense=make(engine, again(request))))
        rows += anchors(engine, subjects)
        for name, text in policies(options.methods, options.densities, more):
            policy = parse_sparsity(text)
            made = [make(engine, again(subject.request, sparsity=policy)) for subject in subjects]
            rows.append(compare(name, text, subjects, made))
            print(json.dumps(rows[-1]), flush=True)
    report = {
        "case": "sparsity_fidelity",
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": describe_machine(),
        "clips": options.clips,
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    for row in rows[:3]:
        print(f"{row['name']}: {row['psnr']} dB, {row['all_right']:.0%} right")
    if options.plot:
        draw(rows, options.plot)


if __name__ == "__main__":
    main()
