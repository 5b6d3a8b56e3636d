"""Whoever dies, whenever: nothing acknowledged is lost, nothing is done twice, nothing is left half."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from reelray.cluster.store.connection import Connection, StoreAddress
from reelray.cluster.store.embedded import EmbeddedStore
from reelray.cluster.store.job import JobState, NewJob
from reelray.cluster.store.open import Store
from reelray.proto.errors import StoreError
from tests.support.store_check import check_store

ROOT = Path(__file__).parents[3]
WISH = NewJob(tenant="ann", spec={"frames": 17})


@contextlib.contextmanager
def process(role, address, owner):
    command = [sys.executable, "-m", "tests.support.store_workers", role, address.url, address.prefix, owner]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def test_processes_claim_a_hundred_jobs_once_each(play, address):
    async def submit(store):
        return {str((await store.jobs.submit(WISH)).ref) for _ in range(100)}

    refs = play(submit)
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(process("claim", address, f"p{n}")) for n in range(3)]
        claims = [row for worker in workers for row in json.loads(worker.stdout.readline())]
    assert sorted(claims) == sorted([ref, 1] for ref in refs)


def test_killed_workers_leave_every_job_done_once(play, address):
    jobs = 15

    async def submit(store):
        for n in range(jobs):
            await store.jobs.submit(NewJob(tenant="ann", spec={"n": n}, max_attempts=50))

    async def progress(store):
        return await check_store(store)

    async def results(store):
        found = (await store.jobs.list("ann", limit=200)).jobs
        return found, {job.ref.id: await store.ledger.commits(job.ref) for job in found}

    play(submit)
    rng, killed = random.Random(7), 0
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(process("work", address, f"p{n}")) for n in range(3)]
        while True:
            states = play(progress).values()
            if all(state is JobState.DONE for state, *_ in states):
                break
            if killed < 4 and sum(units for *_, units in states) > 40 * killed:
                victim = rng.randrange(len(workers))
                workers[victim].kill()
                killed += 1
                workers[victim] = stack.enter_context(process("work", address, f"r{killed}"))
            time.sleep(0.02)
    found, commits = play(results)
    assert killed >= 2
    assert len(found) == jobs
    assert all([commit.unit for commit in rows] == list(range(10)) for rows in commits.values())
    assert all(job.events == 2 + 10 + 2 * (job.claims - 1) + 1 for job in found)  # each unit was told once
    assert all(max(commit.fence for commit in commits[job.ref.id]) <= job.fence for job in found)


def test_what_was_acknowledged_survives_a_killed_server(tmp_path):
    with EmbeddedStore(tmp_path) as server:
        address = StoreAddress(url=server.url, prefix="p")
        acknowledged = {}
        for attempt in range(3):
            server.start()
            with process("submit", address, f"a{attempt}") as client:
                wanted = 40 + 30 * attempt
                for line in client.stdout:
                    if line.strip() == "lost":
                        break
                    key, job = json.loads(line)
                    acknowledged[key] = job
                    wanted -= 1
                    if wanted == 0:
                        os.kill(server.pid, signal.SIGKILL)
        server.start()

        async def look():
            connection = Connection(address)
            store = Store.over(connection)
            try:
                jobs, cursor = [], ""
                while page := await store.jobs.list("ann", cursor=cursor, limit=200):
                    jobs += page.jobs
                    cursor = page.cursor
                    if not cursor:
                        break
                again = [
                    await store.jobs.submit(NewJob(tenant="ann", spec={"key": key}, key=key)) for key in acknowledged
                ]
                ready = await connection.command("ZCARD", connection.key("ready", "default"))
                return jobs, again, ready
            finally:
                await connection.close()

        jobs, again, ready = asyncio.run(look())
    by_key = {job.spec["key"]: job.ref.id for job in jobs}
    assert len(acknowledged) >= 210
    assert acknowledged.items() <= by_key.items()
    assert len(by_key) == len(jobs) == ready  # none twice, none half: at most 24 that nobody was told of
    assert len(jobs) <= len(acknowledged) + 24
    assert [one.ref.id for one in again] == list(acknowledged.values())
    assert not any(one.fresh for one in again)


def test_leases_fences_and_epochs_survive_a_killed_server(tmp_path):
    with EmbeddedStore(tmp_path) as server:
        address = StoreAddress(url=server.url, patience_s=10)

        async def case():
            connection = Connection(address)
            store = Store.over(connection)
            try:
                await store.jobs.submit(WISH)
                lease = await store.leases.claim("w", lease_s=60)
                await store.ledger.commit(lease, 0, {"n": 0})
                session = await store.sessions.open("ann", "s", "a")
                leader = await store.leaders.acquire("c", "me", lease_s=60)
                os.kill(server.pid, signal.SIGKILL)
                await asyncio.to_thread(server.start)  # the same connection goes on
                await store.ledger.commit(lease, 1, {"n": 1})
                assert await store.leases.claim("other", lease_s=9) is None
                assert await store.leaders.observe("c") == leader
                assert await store.sessions.find("ann", "s") == session
                assert (await store.sessions.move(session, "b")).epoch > session.epoch
                return [commit.record["n"] for commit in await store.ledger.commits(lease.ref)]
            finally:
                await connection.close()

        assert asyncio.run(case()) == [0, 1]


def test_a_call_waits_for_a_store_that_comes_back(tmp_path):
    with EmbeddedStore(tmp_path) as server:
        address = StoreAddress(url=server.url, patience_s=20)

        async def case():
            connection = Connection(address)
            store = Store.over(connection)
            try:
                ref = (await store.jobs.submit(WISH)).ref
                watching = asyncio.create_task(store.events.read(ref, after=1, wait_s=60))
                await asyncio.sleep(0.05)
                os.kill(server.pid, signal.SIGKILL)
                back = threading.Timer(0.5, server.start)
                back.start()
                job = await store.jobs.get(ref)
                await store.jobs.cancel(ref)
                events, _ = await watching
                back.join()
                return job.state, [event.data for event in events]
            finally:
                await connection.close()

        assert asyncio.run(case()) == (JobState.QUEUED, ["cancelled"])


def _refused(address):
    async def case():
        connection = Connection(address)
        try:
            with pytest.raises(StoreError, match="does not answer") as lost:
                await Store.over(connection).jobs.submit(WISH)
            return lost.value
        finally:
            await connection.close()

    return asyncio.run(case())


def test_a_store_that_stays_away_is_an_error_of_ours(tmp_path):
    url = f"unix://ann:secret@{tmp_path}/none.sock"
    error = _refused(StoreAddress(url=url, patience_s=0.1))
    assert error.retryable
    assert "secret" not in str(error)


def test_a_store_that_hangs_is_an_error_of_ours(tmp_path):
    with EmbeddedStore(tmp_path) as server:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            _refused(StoreAddress(url=server.url, answer_s=0.2, patience_s=0.1))
        finally:
            os.kill(server.pid, signal.SIGCONT)


@pytest.mark.parametrize("said", ["BUSY a script runs", "MASTERDOWN no link", "CLUSTERDOWN no slots", "NOREPLICAS few"])
def test_a_server_that_cannot_serve_now_is_an_error_of_ours(tmp_path, said):
    async def answer(reader, writer):
        while sent := await reader.read(65536):
            commands = sent.count(b"\r\n*") + sent.startswith(b"*")
            writer.write(f"-{said}\r\n".encode() * commands)
        writer.close()
        await writer.wait_closed()

    async def case():
        path = tmp_path / "s"
        async with await asyncio.start_unix_server(answer, path):
            connection = Connection(StoreAddress(url=f"unix://{path}"))
            try:
                with pytest.raises(StoreError):
                    await connection.command("PING")
            finally:
                await connection.close()
                await asyncio.sleep(0.01)  # the other end closes too

    asyncio.run(case())


def test_tasks_that_are_cancelled_in_the_middle_leave_nothing_half(play):
    async def case(store):
        rng = random.Random(3)

        async def live(n):
            made = await store.jobs.submit(NewJob(tenant="ann", spec={"n": n}))
            lease = await store.leases.claim("w", lease_s=60, job=made.ref)
            await store.ledger.commit(lease, 0, {})
            await store.leases.finish(lease, {})

        tasks = [asyncio.create_task(live(n)) for n in range(60)]
        while not all(task.done() for task in tasks):
            rng.choice(tasks).cancel()
            await asyncio.sleep(0.002)
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.1)  # the server may still run what was sent
        states = (await check_store(store)).values()
        assert all(state is not JobState.DONE or units == 1 for state, _, _, units in states)
        lease = await store.leases.claim("after", lease_s=9)
        return len(states), lease is not None, any(state is JobState.QUEUED for state, *_ in states)

    count, claimed, waited = play(case)
    assert 0 < count <= 60
    assert claimed == waited
