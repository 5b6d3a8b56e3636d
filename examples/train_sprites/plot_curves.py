"""Draw the curves of training logs as one PNG per log; needs matplotlib (the dev extra).

python -m examples.train_sprites.plot_curves examples/train_sprites/logs/*.jsonl --out docs/images
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

Curve: TypeAlias = tuple[list[float], list[float]]

PANELS = (
    ("loss", ("error", "errors", "held_out_0.3", "held_out_0.7", "held_out_0.9", "held_out_0.99"), "log"),
    ("decibels", ("train_db", "psnr_db", "worst_clip_db", "last_frames_db"), "linear"),
    ("share of held-out clips", ("background", "color", "shape", "motion", "all"), "linear"),
    ("share of held-out streams", tuple(f"every_chunk_{name}" for name in ("color", "shape", "motion")), "linear"),
)


def read_curves(lines: Iterable[str]) -> dict[str, Curve]:
    """Steps and values of every number that a log holds, by name."""
    curves: defaultdict[str, Curve] = defaultdict(lambda: ([], []))
    for line in lines:
        row: dict[str, Any] = json.loads(line)
        # Verdicts come in later than the step whose clips they judge.
        step = row.get("of_step", row["step"])
        for name, found in row.items():
            value = sum(found) / len(found) if isinstance(found, list) else found  # of the chunks of a window
            if isinstance(value, int | float) and not isinstance(value, bool):
                curves[name][0].append(step)
                curves[name][1].append(value)
    return dict(curves)


def plot(curves: dict[str, Curve], title: str, path: Path) -> None:
    """Draw the panels for which there are curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  an extra
    from matplotlib.figure import Figure  # noqa: PLC0415

    panels = [panel for panel in PANELS if any(name in curves for name in panel[1])]
    figure = Figure(figsize=(4.5 * len(panels), 3.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0] if panels else []
    for axis, (label, names, scale) in zip(axes, panels, strict=True):
        for name in names:
            if name in curves:
                axis.plot(*curves[name], label=name, linewidth=1, marker="." if len(curves[name][0]) == 1 else None)
        axis.set(xlabel="step", ylabel=label, yscale=scale)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path)


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for log in options.logs:
        plot(read_curves(log.read_text().splitlines()), log.stem, options.out / f"{log.stem}.png")


if __name__ == "__main__":
    main()
