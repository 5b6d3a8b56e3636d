"""`reelray render` with the embedded model and all defaults: wall time and peak memory of all processes.

    python -m benchmarks.render_cpu --out benchmarks/results/render_cpu.json

Each run is a whole process as a user runs it, Ray's start included. The first run warms the file cache and is the one
whose memory is watched: the sum of proportional set sizes over its tree of processes, sampled ten times a second, which
itself takes a quarter of a core. It is reported, but not in the median. Correctness first: the file must hold 81
frames and the same seed must give the same bytes.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import psutil

from benchmarks.harness import describe_machine

PROMPT = "a red circle moves left on a blue background"


def tree_bytes(root: psutil.Process) -> int:
    """Proportional set size of a process and everything below it."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return total


def render_once(out: Path, watch: bool) -> dict[str, Any]:
    """Run the command once; `watch` says whether its memory is sampled."""
    command = [sys.executable, "-m", "reelray", "render", PROMPT, "--seed", "1", "-o", str(out), "--json", "--quiet"]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watched, peak = psutil.Process(process.pid), 0
        while watch and process.poll() is None:
            peak = max(peak, tree_bytes(watched))
            time.sleep(0.1)
        process.wait()
        wall_s = time.perf_counter() - started
        assert process.stdout is not None
        summary = json.loads(process.stdout.read())
    if process.returncode:
        sys.exit(f"render failed with exit code {process.returncode}")
    with av.open(str(out)) as file:
        frames = sum(1 for _ in file.decode(video=0))
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    watched_peak = peak if watch else None
    return {"wall_s": wall_s, "peak_bytes": watched_peak, "frames": frames, "sha256": digest, "summary": summary}


def main() -> None:
    """Render several times, check, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/render_cpu.json"))
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [render_once(Path(folder) / "clip.mp4", watch=turn == 0) for turn in range(options.runs + 1)]
    if any(run["frames"] != 81 or run["sha256"] != runs[0]["sha256"] for run in runs):
        sys.exit("wrong result: the files differ, or do not hold 81 frames")
    later = runs[1:]
    report = {
        "case": "render_cpu",
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": {**describe_machine(), "cores": psutil.cpu_count()},
        "median_wall_s": statistics.median(run["wall_s"] for run in later),
        "peak_bytes": runs[0]["peak_bytes"],
        "load_average_after": psutil.getloadavg(),
        "runs": runs,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"median {report['median_wall_s']:.1f} s wall, peak {report['peak_bytes'] / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
