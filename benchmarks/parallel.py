"""`reelray bench parallel` for the cases that targets are set for, one after the other on one machine.

    python -m benchmarks.parallel --out benchmarks/results/parallel --against diffusers xfuser

Each case is a process of its own with its own time limit and writes CASE.json and CASE.md; all of them refine one
calibration table, table.json. A case that fails leaves the others' results. The last lines compare with the targets.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

START_S = 30.0
"""For the command itself, beyond the limit of its ranks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One call of the command.

    Args:
        model: Preset.
        size: Pixels.
        frames: Pixel frames.
        runs: Timed runs.
        limit_s: For the ranks.
        layouts: What is compared; None takes the usual ones.
        warmup: Untimed runs, besides the checked one.
        head_groups: To try.
        parts: What is measured.
        guided: Least speed-up of the best guided step; None sets no target.
        decode: Least speed-up of decode.
        remembered: Latent frames that the window attends besides its own.
        one_ms: Longest forward on one rank.
        many_ms: Longest forward on all ranks.
    """

    model: str
    size: str
    frames: int
    runs: int
    limit_s: float
    layouts: str | None = None
    warmup: int = 1
    head_groups: str = "1"
    parts: str = "rates,decode,forward"
    guided: float | None = None
    decode: float | None = None
    remembered: int = 0
    one_ms: float | None = None
    many_ms: float | None = None


CHUNK = Case(
    model="wan2.1-1.3b",
    size="832x480",
    frames=9,
    runs=15,
    warmup=3,
    limit_s=200,
    parts="forward",
    one_ms=28.0,
    many_ms=12.0,
)
CASES = {
    "1.3b-480p": Case(model="wan2.1-1.3b", size="832x480", frames=81, runs=7, limit_s=300, guided=3.75, decode=3.2),
    "1.3b-chunk": CHUNK,
    "1.3b-chunk-memory": replace(CHUNK, remembered=9, one_ms=54.0, many_ms=20.0),
    "14b-480p": Case(
        model="wan2.1-14b", size="832x480", frames=81, runs=5, limit_s=480, parts="rates,forward", guided=3.85
    ),
    "14b-720p": Case(
        model="wan2.1-14b",
        size="1280x720",
        frames=81,
        runs=3,
        warmup=0,
        limit_s=560,
        layouts="cfg=2,ulysses=2;ulysses=4",
        parts="rates,forward",
        guided=3.92,
    ),
}


def run_case(name: str, case: Case, options: argparse.Namespace) -> dict[str, Any] | None:
    """Run one case in a process; its report, or None when it left none."""
    out = options.out / f"{name}.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "reelray", "bench", "parallel", "--model", case.model]
    command += ["--size", options.size or case.size, "--frames", str(case.frames), "--gpus", str(options.gpus)]
    command += ["--runs", str(options.runs or case.runs), "--head-groups", case.head_groups, "--measure", case.parts]
    limit_s = options.limit or case.limit_s
    command += ["--warmup", str(case.warmup), "--limit", str(limit_s), "--device", options.device]
    command += ["--out", str(out), "--table", str(options.out / "table.json")]
    command += ["--layouts", case.layouts] if case.layouts and not options.layouts else []
    command += ["--layouts", options.layouts] if options.layouts else []
    if case.remembered:
        command += ["--remembered", str(case.remembered)]
    else:
        command += [part for peer in options.against for part in ("--against", peer)]
    command += ["--tiny"] if options.tiny else []
    began = time.monotonic()
    try:
        code: int | str = subprocess.run(command, check=False, timeout=limit_s + START_S).returncode
    except subprocess.TimeoutExpired:
        code = "ended, it took too long"
    print(f"== {name}: exit {code}, {time.monotonic() - began:.0f} s", flush=True)
    return json.loads(out.read_text()) if out.is_file() else None


def best(report: dict[str, Any], what: str) -> dict[str, Any] | None:
    """Our fastest row of several ranks."""
    rows = [r for r in report["rows"] if (r["what"], r["by"]) == (what, "reelray") and r["ranks"] > 1]
    return min((r for r in rows if r["median_ms"]), key=lambda row: row["median_ms"], default=None)


def compare(name: str, case: Case, report: dict[str, Any]) -> list[str]:
    """Lines that compare a report with the targets."""
    found = []
    for what, least in (("guided step", case.guided), ("decode", case.decode)):
        row = best(report, what)
        if row is not None:
            wanted = "" if least is None else f", target {least}: {'met' if row['speed_up'] >= least else 'MISSED'}"
            took = f"{row['median_ms']:.1f} ms, {row['speed_up']:.2f} times one GPU"
            found.append(f"{name}: {what}, {row['layout']}: {took}{wanted}")
    ours = best(report, "forward")
    alone = next(r for r in report["rows"] if (r["what"], r["by"], r["ranks"]) == ("forward", "reelray", 1))
    for row, most in ((alone, case.one_ms), (ours, case.many_ms)):
        if row is not None and most is not None and row["median_ms"] is not None:
            verdict = "met" if row["median_ms"] <= most else "MISSED"
            found.append(f"{name}: one forward, {row['layout']}: {row['median_ms']:.1f} ms, target {most}: {verdict}")
    theirs = [r for r in report["rows"] if r["by"] != "reelray" and r["ranks"] > 1 and r["median_ms"]]
    for row in theirs if ours else ():
        assert ours is not None
        verdict = "faster" if ours["median_ms"] < row["median_ms"] else "SLOWER"
        found.append(
            f"{name}: one branch, {ours['layout']}: {ours['median_ms']:.1f} ms, {verdict} than "
            f"{row['by']} {row['layout']}, {row['median_ms']:.1f} ms"
        )
    if report["failure"]:
        found.append(f"{name}: not complete: {report['failure']}")
    return found


def main() -> None:
    """Run the cases and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/parallel"))
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--against", nargs="*", default=["diffusers", "xfuser"])
    parser.add_argument("--gpus", type=int, default=4)
    parser.add_argument("--runs", type=int, help="instead of those of each case")
    parser.add_argument("--limit", type=float, help="seconds, instead of those of each case")
    parser.add_argument("--layouts", help="instead of those of each case")
    parser.add_argument("--size", help="instead of that of each case")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="shrunk networks, to try this script on a CPU")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for name in options.cases:
        report = run_case(name, CASES[name], options)
        lines += [f"{name}: no report"] if report is None else compare(name, CASES[name], report)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
