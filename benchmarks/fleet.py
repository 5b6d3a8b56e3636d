"""How fast the fleet decides, and how that grows with what waits.

    python -m benchmarks.fleet

Admit and place: engines are full and a number of tickets wait; then each round one ticket ends, one comes with a
deadline that is checked, and one is placed. Besides, a simulation of 1024 GPUs. Needs no GPU. Seconds are those of the
processor, in turn for all cases, and the median of the runs counts. Prints ratios and writes JSON; other work on the
machine still shows, as caches are shared: see the load average.
"""

import argparse
import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

from reelray.proto.request import RequestId
from reelray.scheduler.fleet.decision import Placed
from reelray.scheduler.fleet.engine_state import EngineFacts
from reelray.scheduler.fleet.fleet import Fleet
from reelray.scheduler.fleet.policy import FleetPolicy
from reelray.scheduler.fleet.ticket import EngineId, Kind, TenantId, Ticket
from reelray.scheduler.simulation.arrival import Cost, Shape
from reelray.scheduler.simulation.draws import Draws
from reelray.scheduler.simulation.poisson import Poisson
from reelray.scheduler.simulation.simulation import SimulatedFleet, Simulation

ENGINES, GPUS = 128, 8
SECONDS = {17: 7.8, 49: 20.2, 81: 34.5}
USUAL = (1_000, 0.5, ENGINES)
CASES = (
    *((waiting, 0.5, ENGINES) for waiting in (100, 1_000, 10_000, 100_000)),
    *((1_000, dated, ENGINES) for dated in (0.0, 1.0)),
    *((1_000, 0.5, engines) for engines in (16, 1024)),
)
"""What waits, the share of it that has a promise, and engines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One measurement.

    Args:
        waiting: Tickets in the lines.
        dated: Share of them with a promise.
        engines: Of the fleet.
        rounds: Timed.
        per_second: Tickets admitted and placed.
        microseconds: Of one.
    """

    waiting: int
    dated: float
    engines: int
    rounds: int
    per_second: float
    microseconds: float


def make_ticket(number: int, draws: Draws, now: float, dated: float, room_s: float) -> Ticket:
    """One of the mix; deadlines are far enough to be promised."""
    alone = tuple(SECONDS.values())[int(3 * draws.uniform())]
    due = now + room_s * (1.5 + draws.uniform()) + alone if draws.uniform() < dated else None
    return Ticket(
        request_id=RequestId(f"r{number}"),
        model="m",
        seconds={1: alone, 2: alone / 1.85, 4: alone / 3.4},
        tenant=TenantId(f"t{int(8 * draws.uniform())}"),
        deadline_s=due,
        memory_bytes=1 << 30,
    )


def measure(waiting: int, *, dated: float, engines: int = ENGINES, rounds: int = 10_000) -> Round:
    """Admit, place and end `rounds` tickets while `waiting` wait."""
    fleet, draws, now = Fleet(FleetPolicy(most_waiting=10**9, most_waiting_per_tenant=10**9)), Draws(1), 0.0
    for number in range(engines):
        facts = EngineFacts(engine_id=EngineId(f"e{number}"), model="m", gpus=GPUS, memory_bytes=1 << 40)
        fleet.engine_up(facts, 0.0)
    room_s = (waiting + engines * GPUS) * 21.0 / (engines * GPUS)
    total = waiting + engines * GPUS
    tickets = [make_ticket(n, draws, 0.0, 0.0, room_s) for n in range(engines * GPUS)]
    for ticket in tickets:
        fleet.submit(ticket, 0.0)
    running = [d for d in fleet.next_decisions(0.0) if isinstance(d, Placed)]
    for n in range(len(tickets), total):
        fleet.submit(make_ticket(n, draws, 0.0, dated, room_s), 0.0)
    coming = [make_ticket(total + n, draws, n * 0.02, dated, room_s) for n in range(rounds)]
    started = time.process_time()
    for number, ticket in enumerate(coming):
        now = number * 0.02
        ended = running[number]
        fleet.finish(ended.request_id, ended.attempt, now)
        fleet.submit(ticket, now)
        running += [d for d in fleet.next_decisions(now) if isinstance(d, Placed)]
    spent = time.process_time() - started
    left = fleet.pressure()["m"].waiting
    assert abs(left - waiting) <= waiting * 0.1 + 1, f"{left} wait, of {waiting}"
    return Round(
        waiting=waiting,
        dated=dated,
        engines=engines,
        rounds=rounds,
        per_second=round(rounds / spent),
        microseconds=round(1e6 * spent / rounds, 1),
    )


def simulate(seconds: float) -> dict[str, Any]:
    """Events of a simulated hour on 1024 GPUs."""
    costs = {
        (frames, kind): Cost(seconds={1: alone, 2: alone / 1.85, 4: alone / 3.4}, step_s=0.7)
        for frames, alone in SECONDS.items()
        for kind in Kind
    }
    engines = tuple(
        EngineFacts(engine_id=EngineId(f"e{n}"), model="", gpus=GPUS, memory_bytes=1 << 40) for n in range(ENGINES)
    )
    rate = 0.9 * ENGINES * GPUS / (sum(SECONDS.values()) / 3)
    arrivals = list(Poisson(rate=rate, interactive=0.3, streams=0.2, tenants=8, seconds=seconds).arrivals())
    simulation = Simulation(SimulatedFleet(engines=engines), lambda shape: costs[_key(shape)])
    started = time.process_time()
    simulation.run(arrivals)
    spent = time.process_time() - started
    return {
        "requests": len(arrivals),
        "events": simulation.count,
        "events_per_minute": round(60 * simulation.count / spent),
    }


def _key(shape: Shape) -> tuple[int, Kind]:
    return shape.frames, shape.kind


def main() -> None:
    """Print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fleet.json"))
    parser.add_argument("--runs", type=int, default=5, help="of each case")
    options, before = parser.parse_args(), os.getloadavg()
    runs = [
        [measure(waiting, dated=dated, engines=engines) for waiting, dated, engines in CASES]
        for _ in range(options.runs)
    ]
    rounds = [sorted(same, key=lambda row: row.microseconds)[options.runs // 2] for same in zip(*runs, strict=True)]
    first = rounds[CASES.index(USUAL)]
    for row in rounds:
        ratio = row.microseconds / first.microseconds
        print(f"{row.waiting} wait, {row.dated:.0%} dated, {row.engines} engines: {row.per_second}/s, {ratio:.2f}x")
    simulated = sorted((simulate(120.0) for _ in range(options.runs)), key=itemgetter("events_per_minute"))[
        options.runs // 2
    ]
    print(f"simulator: {simulated['events_per_minute']} events/min")
    report = {
        "case": "fleet",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()},
        "runs": options.runs,
        "load_average": {"before": before, "after": os.getloadavg()},
        "admit_and_place": [asdict(row) | {"ratio": round(row.microseconds / first.microseconds, 2)} for row in rounds],
        "simulator": simulated,
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
