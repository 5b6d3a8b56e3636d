"""The service under load, gateway, store and callers on the same cores, over an engine that computes nothing.

    python -m benchmarks.service --out benchmarks/results/service.json
    python -m benchmarks.service --seconds 0.5 --runs 1     # to see that it runs
    python -m benchmarks.service --cases submit relay       # the others keep their rows in FILE
    python -m benchmarks.service --patience 60              # begin each run in a quiet moment, if one comes in time

Store, gateway and callers are processes of their own; callers have tokens. Each case is run several times and the
median of the runs counts; all runs are in the file, with how busy the machine was before each, as other work shows.

submit    `Renders.Submit` with a client's key, a rate, a quota of units and a limit of open jobs; on disk when answered
relay     bytes per second of one video of raw frames (`Videos.Generate`), and of one file (`Renders.Download`)
streams   500 videos at once, each a batch of frames every second, and as fast as they go
watchers  500 watchers of 50 renders that move on every second
unread    callers that stop reading: bytes that were made and not read, and how the gateway grows, of each
cancel    from a caller's cancel to the engine's
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks import service_callers as callers
from benchmarks.harness import describe_machine
from benchmarks.service_gateway import Gateway, Pace, start_gateway
from benchmarks.service_worker import finish_render, telling
from reelray.proto.errors import ReelrayError

MANY = 500
CHANNELS = 8
UNREAD = 8
QUIET_PERCENT = 15.0
FILE_BYTES = 256 << 20
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What a case has to reach.

    Args:
        name: Of the number.
        limit: It.
        is_most: Whether it is the most that is allowed; else the least that is wanted.
    """

    name: str
    limit: float
    is_most: bool

    def is_met(self, value: float) -> bool:
        """Whether a number is good enough."""
        return value <= self.limit if self.is_most else value >= self.limit


TARGETS = (
    Target(name="submits_per_s", limit=1000, is_most=False),
    Target(name="frames_mb_per_s", limit=250, is_most=False),
    Target(name="file_mb_per_s", limit=250, is_most=False),
    Target(name="held_mb", limit=16, is_most=True),
    Target(name="cancel_p95_ms", limit=20, is_most=True),
)


def submit(seconds: float) -> Iterator[Row]:
    """Calls per second for a number of callers in flight."""
    with start_gateway() as gateway:
        for processes, channels, in_flight in ((1, 1, 1), (1, 1, 32), (1, 4, 64), (2, 2, 32)):
            with in_processes(processes) as run:
                before, mark = gateway.cpu_s(), time.time_ns()
                jobs = [(gateway.address, f"{mark} {n}", channels, in_flight, seconds) for n in range(processes)]
                took = sorted(ms for rows in run(callers.submit, jobs) for ms in rows)
            yield {
                "callers": processes,
                "channels": channels,
                "in_flight": in_flight,
                "submits_per_s": round(len(took) / seconds),
                **quantiles("submit", took),
                "gateway_cpu_us": round((gateway.cpu_s() - before) / len(took) * 1e6),
            }


def relay(seconds: float) -> Iterator[Row]:
    """Bytes per second to one reader."""
    with start_gateway() as gateway, in_processes(1) as run:
        before = gateway.cpu_s()
        (rate,) = run(callers.read_frames, [(gateway.address, seconds)])
        yield {"frames_mb_per_s": round(rate / 1e6), "gateway_cpu": round((gateway.cpu_s() - before) / seconds, 2)}
        render_id, before = finish_render(gateway, FILE_BYTES), gateway.cpu_s()
        (rate,) = run(callers.read_file, [(gateway.address, render_id, seconds)])
        yield {"file_mb_per_s": round(rate / 1e6), "gateway_cpu": round((gateway.cpu_s() - before) / seconds, 2)}


def streams(seconds: float) -> Iterator[Row]:
    """Many videos at once: how evenly they go on."""
    for pause_s in (1.0, 0.0):
        with start_gateway(Pace(pause_s=pause_s, models=MANY)) as gateway, in_processes(1) as run:
            (came,) = run(callers.stream, [(gateway.address, MANY, CHANNELS, max(seconds, 3 * pause_s))])
            counts = sorted(len(times) for times in came)
            gaps = sorted(1e3 * (b - a) for times in came for a, b in pairwise(times))
            yield {
                "streams": MANY,
                "pause_s": pause_s,
                "batches_per_s": round(sum(counts) / max(seconds, 3 * pause_s)),
                "batches_least": counts[0],
                "batches_median": statistics.median(counts),
                "batches_most": counts[-1],
                **quantiles("gap", gaps),
                "gateway_mb": round(gateway.used_bytes() / 1e6),
            }


def watchers(seconds: float) -> Iterator[Row]:
    """Many watchers: how late they hear of what happens."""
    events = 5 + round(seconds)
    with start_gateway() as gateway, in_processes(1) as run, telling(gateway, MANY // 10, events, 1.0) as (ids, begin):
        begin()
        (took,) = run(callers.watch, [(gateway.address, ids, MANY, CHANNELS, events)])
        late, counts = sorted(ms for times in took for ms in times), [len(times) for times in took]
        yield {"watchers": MANY, "events_least": min(counts), "events_most": max(counts), **quantiles("late", late)}


def unread(seconds: float) -> Iterator[Row]:
    """What callers hold that stop reading."""
    with start_gateway(Pace(models=UNREAD)) as gateway, in_processes(1) as run:
        before = gateway.used_bytes()
        with watching(gateway) as seen:
            ((read, left_at),) = run(callers.stall, [(gateway.address, UNREAD, max(2.0, seconds))])
        # What a caller that left has not read is held by nobody.
        while_there = [look for look in seen if look.at < left_at]
        held = max(look.produced for look in while_there) - sum(read)
        grown = max(look.used_bytes for look in while_there) - before
        yield {
            "readers": UNREAD,
            "held_mb": round(held / UNREAD / 1e6, 2),
            "gateway_mb": round(grown / UNREAD / 1e6, 2),
        }


def cancel(seconds: float) -> Iterator[Row]:
    """How long it takes until the engine knows."""
    with start_gateway(Pace(pause_s=30.0)) as gateway, in_processes(1) as run:
        (cancelled,) = run(callers.cancel, [(gateway.address, max(20, round(25 * seconds)), 0.01)])
        time.sleep(0.5)
        ended = gateway.ended()
        late = sorted((ended[name] - at) * 1e3 for name, at in cancelled.items())
        yield {"cancels": len(late), **quantiles("cancel", late)}


CASES: dict[str, Callable[[float], Iterator[Row]]] = {
    case.__name__: case for case in (submit, relay, streams, watchers, unread, cancel)
}


def quantiles(name: str, sorted_ms: Sequence[float]) -> Row:
    """Median, 95th and 99th percentile."""
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {
        f"{name}_{word}_ms": round(sorted_ms[int(share * (len(sorted_ms) - 1))], 2) for word, share in shares.items()
    }


@contextmanager
def in_processes(count: int) -> Iterator[Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]]:
    """Run functions in other processes, which are there before the clock is started."""
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        pool.starmap(callers.metadata, [(n,) for n in range(count)], chunksize=1)
        yield lambda function, jobs: pool.starmap(function, jobs, chunksize=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """At a gateway.

    Args:
        at: `time.monotonic` before the look.
        used_bytes: Memory of the gateway.
        produced: Bytes of frames that were taken from its engine.
    """

    at: float
    used_bytes: int
    produced: int


@contextmanager
def watching(gateway: Gateway) -> Iterator[list[Look]]:
    """Looks at a gateway, every now and then during a block."""
    seen: list[Look] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            at = time.monotonic()
            seen.append(Look(at=at, used_bytes=gateway.used_bytes(), produced=gateway.produced()))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def wait_for_quiet(patience_s: float) -> Row:
    """Wait until nothing else runs, or for so long; says how busy the machine is then."""
    until = time.monotonic() + patience_s
    while (busy := psutil.cpu_percent(1.0)) > QUIET_PERCENT and time.monotonic() < until:
        pass
    return {"busy_percent_before": busy, "load_average_before": round(os.getloadavg()[0], 2)}


def run_case(name: str, options: argparse.Namespace) -> list[Row]:
    """The rows of a case, each with the medians of its runs and the runs themselves."""
    measured: list[list[Row]] = []
    for _ in range(options.runs):
        before = wait_for_quiet(options.patience)
        measured.append([row | before for row in CASES[name](options.seconds)])
    rows, date = [], f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}"
    for same in zip(*measured, strict=True):
        row = {"case": name, "date": date} | {key: statistics.median(run[key] for run in same) for key in same[0]}
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        rows.append(row | {"runs": list(same)})
    return rows


def judge(rows: Sequence[Row]) -> list[Row]:
    """What was reached of what is wanted: the best of the rows that tell it."""
    found = []
    for target in TARGETS:
        values = [row[target.name] for row in rows if target.name in row]
        if values:
            best = min(values) if target.is_most else max(values)
            found.append({"target": target.name, "limit": target.limit, "value": best, "met": target.is_met(best)})
    return found


def main(args: list[str] | None = None) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the raw JSON goes")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--runs", type=int, default=5, help="of each case; their medians count")
    parser.add_argument("--patience", type=float, default=0.0, help="seconds to wait for a quiet moment before a run")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which; all if left out")
    options = parser.parse_args(args)
    try:
        rows = [row for name in options.cases for row in run_case(name, options)]
    except ReelrayError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.out is not None and options.out.exists():
        kept = json.loads(options.out.read_text())["rows"]
        rows = [row for row in kept if row["case"] not in options.cases] + rows
    report = {
        "case": "service",
        "machine": describe_machine() | {"cores": os.cpu_count()},
        "targets": judge(rows),
        "load_average_after": os.getloadavg(),
        "rows": rows,
    }
    print("\n".join(f"{row['target']}: {row['value']} ({row['limit']}) {row['met']}" for row in judge(rows)))
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(row["met"] for row in judge(rows)) else 1


if __name__ == "__main__":
    sys.exit(main())
