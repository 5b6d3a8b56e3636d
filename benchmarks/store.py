"""The embedded store under load: calls per second and how long one takes, server and clients on the same cores.

    python -m benchmarks.store --out benchmarks/results/store.json
    python -m benchmarks.store --seconds 0.5           # to see that it runs

Client processes with many calls in flight each, against one embedded server over its Unix socket. A submit carries a
client's key, a rate limit, a quota of units and a limit of open jobs, as the gateway's do, and is one script. `always`
is what the embedded store promises: each change is on disk before it is acknowledged. `everysec` may lose a second at a
power cut; it is measured to see what the promise costs.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import describe_machine
from reelray.cluster.store.connection import Connection, StoreAddress
from reelray.cluster.store.embedded import EmbeddedStore
from reelray.cluster.store.job import NewJob
from reelray.cluster.store.limits import RateLimit, SubmitLimits, UnitQuota
from reelray.cluster.store.open import Store
from reelray.proto.errors import ReelrayError

TARGET_SUBMITS_PER_S = 1000
LIMITS = SubmitLimits(
    rate=RateLimit(name="submits", per_s=1e6, burst=1_000_000),
    units=UnitQuota(name="gpu-seconds", limit=10**12, window_s=86_400),
    charge=30,
    open_jobs=10**9,
)
SPEC = {
    "model": "wan2.1-t2v-1.3b",
    "text": "a red circle moves left on a blue background, slowly, in the light of the evening " * 4,
    "frames": 81,
    "width": 832,
    "height": 480,
    "seed": 7,
    "steps": 50,
}

Call = Callable[[int], Awaitable[object]]


async def submit(store: Store, tenant: str) -> Call:
    """A job within the tenant's limits, under a key of its own."""

    async def call(n: int) -> None:
        await store.jobs.submit(NewJob(tenant=tenant, spec=SPEC, key=f"{tenant} {n}"), LIMITS)

    return call


async def repeat(store: Store, tenant: str) -> Call:
    """A job that was submitted before."""
    wish = NewJob(tenant=tenant, spec=SPEC, key="one")
    return lambda _: store.jobs.submit(wish, LIMITS)


async def get(store: Store, tenant: str) -> Call:
    """A look at a job."""
    made = await store.jobs.submit(NewJob(tenant=tenant, spec=SPEC))
    return lambda _: store.jobs.get(made.ref)


async def commit(store: Store, tenant: str) -> Call:
    """A unit into the ledger."""
    await store.jobs.submit(NewJob(tenant=tenant, spec=SPEC, queue=tenant))
    lease = await store.leases.claim("bench", lease_s=3600, queues=[tenant])
    assert lease is not None
    record = {"latents": "sha256-" + "0" * 64, "media": "sha256-" + "1" * 64, "bytes": 1_234_567}
    return lambda n: store.ledger.commit(lease, n, record)


async def renew(store: Store, tenant: str) -> Call:
    """A lease held for longer."""
    await store.jobs.submit(NewJob(tenant=tenant, spec=SPEC, queue=tenant))
    lease = await store.leases.claim("bench", lease_s=3600, queues=[tenant])
    assert lease is not None
    return lambda _: store.leases.renew(lease)


async def life(store: Store, tenant: str) -> Call:
    """A whole life: submit, claim, commit, finish; four calls."""

    async def call(_: int) -> None:
        await store.jobs.submit(NewJob(tenant=tenant, spec=SPEC, queue=tenant))
        lease = await store.leases.claim("bench", lease_s=3600, queues=[tenant])
        assert lease is not None
        await store.ledger.commit(lease, 0, {"latents": "sha256-0"})
        await store.leases.finish(lease, {})

    return call


async def find(store: Store, tenant: str) -> Call:
    """A session looked up."""
    await store.sessions.open(tenant, "s", "engine-1", {"chunk": 4})
    return lambda _: store.sessions.find(tenant, "s")


CASES = {call.__name__: call for call in (submit, repeat, get, commit, renew, life, find)}


async def drive(case: str, address: StoreAddress, in_flight: int, seconds: float) -> list[float]:
    """Milliseconds of each call that ended in time."""
    connection = Connection(address)
    try:
        tenant = "t" + secrets.token_hex(4)
        call, took = await CASES[case](Store.over(connection), tenant), list[float]()
        until, count = time.perf_counter() + seconds, iter(range(10**9))

        async def go_on() -> None:
            while (start := time.perf_counter()) < until:
                await call(next(count))
                took.append((time.perf_counter() - start) * 1e3)

        await asyncio.gather(*(go_on() for _ in range(in_flight)))
        return took
    finally:
        await connection.close()


def client(case: str, address: StoreAddress, in_flight: int, seconds: float) -> list[float]:
    """One client process."""
    return asyncio.run(drive(case, address, in_flight, seconds))


def measure(case: str, address: StoreAddress, clients: int, in_flight: int, seconds: float) -> dict[str, Any]:
    """Rate and times of one case."""
    load = os.getloadavg()[0]
    with multiprocessing.get_context("spawn").Pool(clients) as pool:
        pool.map(abs, range(clients))  # started before the clock is
        run = partial(client, case, address, in_flight)
        took = sorted(ms for rows in pool.map(run, [seconds] * clients, chunksize=1) for ms in rows)
    quantiles = statistics.quantiles(took, n=100) if len(took) > 1 else took * 99
    return {
        "case": case,
        "clients": clients,
        "in_flight": in_flight,
        "calls": len(took),
        "per_s": round(len(took) / seconds, 1),
        "p50_ms": round(quantiles[49], 3),
        "p99_ms": round(quantiles[98], 3),
        "load_average_before": round(load, 2),
    }


async def configure(address: StoreAddress, policy: str) -> None:
    """Choose when the server's log of changes reaches the disk; begin empty."""
    connection = Connection(address)
    try:
        await connection.command("CONFIG", "SET", "appendfsync", policy)
        await connection.command("FLUSHALL")
    finally:
        await connection.close()


def run_all(seconds: float) -> list[dict[str, Any]]:
    """All cases under both policies, and single calls."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, EmbeddedStore(Path(folder)) as server:
        address = StoreAddress(url=server.url)
        for policy in ("always", "everysec"):
            for case in CASES if policy == "always" else ("submit", "commit"):
                for clients, in_flight in ((1, 1), (1, 32), (2, 32)):
                    asyncio.run(configure(address, policy))
                    row = {"appendfsync": policy} | measure(case, address, clients, in_flight, seconds)
                    print(" ".join(f"{name}={value}" for name, value in row.items()), flush=True)
                    rows.append(row)
    return rows


def main(args: list[str] | None = None) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the raw JSON goes")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each case")
    options = parser.parse_args(args)
    try:
        rows = run_all(options.seconds)
    except ReelrayError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    best = max(row["per_s"] for row in rows if row["case"] == "submit" and row["appendfsync"] == "always")
    report = {
        "case": "store",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": describe_machine() | {"cores": os.cpu_count()},
        "submits_per_s": best,
        "target_submits_per_s": TARGET_SUBMITS_PER_S,
        "load_average_after": os.getloadavg(),
        "rows": rows,
    }
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if best >= TARGET_SUBMITS_PER_S else 1


if __name__ == "__main__":
    sys.exit(main())
