"""Jobs that lose their engine, lease, files or store on the way, on a model in closed form."""

import asyncio
import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.renders.attempt import Attempt, Surroundings
from reelray.cluster.renders.commit_pace import CommitRule
from reelray.cluster.store.connection import Connection, StoreAddress
from reelray.cluster.store.embedded import EmbeddedStore
from reelray.cluster.store.job import JobState
from reelray.cluster.store.open import Store
from reelray.proto.errors import EngineError, LeaseLostError
from reelray.proto.events import Progress, Stage
from tests.support.render_jobs import (
    EVERY_STEP,
    Gate,
    SteppedModel,
    fake_model_entry,
    finish_job,
    is_idle,
    plan,
    reached,
    records_of,
    served,
    submit,
    undisturbed,
    until,
    video_of,
    work_alone,
    worker_of,
)


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("seed", range(4))
def test_lost_engines_cost_a_unit_and_no_frame(play, artifacts, chunk, seed):
    rng, unit = random.Random(seed), 3
    entry = fake_model_entry(chunk=chunk, steps=12)
    left, lost = rng.randint(1, 11), []

    def lose(event):
        nonlocal left
        left -= isinstance(event, Progress) and event.stage is Stage.DENOISE
        if left == 0:
            left = rng.randint(8, 20)
            lost.append(event.done)
            raise EngineError("rank 0 is gone")

    with served(entry, SteppedModel(), lose) as (model, engines):
        job = plan(entry, frames=21)

        async def case(store):
            ref = await submit(store, artifacts, job, model)
            worker = worker_of(
                store, artifacts, model, rule=CommitRule(every_s=3600, steps=unit, chunks=99, share=None)
            )
            done = await finish_job(store, worker, ref)
            return done, await records_of(store, ref), await video_of(store, artifacts, ref)

        done, records, data = play(case)
        steps = engines[0].steps
        assert done.state is JobState.DONE, done.error
        assert done.claims == len(lost) + 1 == len(steps) >= 2
        committed = [record.steps for record in records]
        assert committed == sorted(set(committed))
        for at, following in zip(lost, steps[1:], strict=True):
            went_on_after = following[0] - 1 if following else 12 if chunk is None else 36
            assert went_on_after in [0, *committed]
            # Two steps are under way by the time that the ranks hear of a snapshot.
            assert at - went_on_after <= unit + 2
        left = -1
        assert data == undisturbed(job, model)


def test_a_slow_job_keeps_its_lease(play, artifacts):
    entry, gate = fake_model_entry(steps=24), Gate(4)
    with served(entry, SteppedModel(), gate) as (model, _):

        async def case(store):
            ref = await submit(store, artifacts, plan(entry), model)
            lease = await store.leases.claim("w", lease_s=0.6, queues=["fake"])
            task = asyncio.create_task(worker_of(store, artifacts, model).work_on(lease))
            await reached(gate)
            await asyncio.sleep(1.0)
            other = await store.leases.claim("other", lease_s=60, queues=["fake"])
            gate.open.set()
            await task
            return other, await store.jobs.get(ref)

        other, done = play(case)
    assert other is None
    assert (done.state, done.claims) == (JobState.DONE, 1)


@pytest.mark.parametrize("chunk", [None, 2])
def test_a_zombie_commits_nothing_and_stops(play, artifacts, chunk):
    entry, gate = fake_model_entry(steps=24, chunk=chunk), Gate(6)
    with served(entry, SteppedModel(), gate) as (old, _), served(entry, SteppedModel()) as (new, engines):
        job = plan(entry)

        async def case(store):
            ref = await submit(store, artifacts, job, old)
            lease = await store.leases.claim("old", lease_s=0.05, queues=["fake"])
            old_fence = lease.fence
            # As one whose process stands still: it neither renews nor hears of anything.
            around = Surroundings(store=store, artifacts=artifacts, rule=EVERY_STEP)
            zombie = asyncio.create_task(Attempt(lease, old, around).run())
            await reached(gate)
            before = await store.ledger.commits(ref)
            lease = None
            while lease is None:
                lease = await store.leases.claim("new", lease_s=60, queues=["fake"])
            gate.open.set()
            with pytest.raises(LeaseLostError):
                await zombie
            await until(lambda: is_idle(old.engine, ref, old_fence))
            between = await store.ledger.commits(ref)
            left_over = {file.name for file in artifacts.files("ann", ref.id)}
            await worker_of(store, artifacts, new).work_on(lease)
            done = await store.jobs.get(ref)
            fences = old_fence, lease.fence
            return fences, before, between, left_over, done, await video_of(store, artifacts, ref)

        (old_fence, new_fence), before, between, left_over, done, data = play(case)
        assert len(before) > 0
        assert between == before
        assert any(name.startswith(f"u{len(before)}-f{old_fence}-") for name in left_over)  # it tried
        assert done.state is JobState.DONE, done.error
        assert data == undisturbed(job, new)
        assert engines[0].steps[0][0] == before[-1].record["steps"] + 1
        (file,) = artifacts.files("ann", done.ref.id)
        assert file.name.startswith(f"video-f{new_fence}-")


def test_a_worker_that_stood_still_for_too_long_ends_by_itself(play, address, artifacts):
    entry, gate = fake_model_entry(steps=24), Gate(4)

    def claim_elsewhere():
        async def main():
            connection, lease = Connection(address), None
            while lease is None:
                lease = await Store.over(connection).leases.claim("new", lease_s=60, queues=["fake"])
            await connection.close()
            return lease

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, main()).result()

    with served(entry, SteppedModel(), gate) as (model, _):
        job = plan(entry)

        async def case(store):
            ref = await submit(store, artifacts, job, model)
            lease = await store.leases.claim("old", lease_s=0.3, queues=["fake"])
            task = asyncio.create_task(worker_of(store, artifacts, model).work_on(lease))
            await reached(gate)
            other = claim_elsewhere()  # this loop stands still meanwhile
            await task
            await until(lambda: is_idle(model.engine, ref, lease.fence))
            return other, await store.jobs.get(ref)

        other, left = play(case)
        gate.open.set()
        assert (left.state, left.claims, other.job.claims) == (JobState.RUNNING, 2, 2)


def test_a_full_place_for_files_fails_the_job_with_its_reason(play, artifacts, monkeypatch):
    entry = fake_model_entry(steps=6)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with served(entry, SteppedModel()) as (model, engines):
        job = plan(entry)

        async def case(store):
            ref = await submit(store, artifacts, job, model)
            return await finish_job(store, worker_of(store, artifacts, model), ref)

        ended = play(case)
        assert ended.state is JobState.FAILED
        assert "No space left on device" in ended.error
        assert ended.claims == ended.max_attempts == len(engines[0].steps)
        assert artifacts.files("ann", ended.ref.id) == []


def test_a_place_that_is_full_for_a_while_costs_no_frame(play, artifacts, monkeypatch):
    entry, fsync, left = fake_model_entry(steps=8, chunk=2), os.fsync, [9, 30]

    def full_at_times(descriptor):
        left[0] -= 1
        if left[0] == 0:
            left[0] = left.pop() if len(left) > 1 else -1
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_times)
    with served(entry, SteppedModel()) as (model, _):
        job = plan(entry)

        async def case(store):
            ref = await submit(store, artifacts, job, model)
            done = await finish_job(store, worker_of(store, artifacts, model), ref)
            return done, await video_of(store, artifacts, ref)

        done, data = play(case)
        assert done.state is JobState.DONE, done.error
        assert done.claims == 3
        assert data == undisturbed(job, model)


def test_a_killed_store_that_comes_back_does_not_disturb(tmp_path):
    entry, gate = fake_model_entry(steps=24), Gate(5)
    artifacts = Artifacts(tmp_path / "renders")
    with EmbeddedStore(tmp_path / "store") as server, served(entry, SteppedModel(), gate) as (model, engines):
        job = plan(entry)

        async def main():
            connection = Connection(StoreAddress(url=server.url, patience_s=0.1))
            store = Store.over(connection)
            try:
                ref = await submit(store, artifacts, job, model)
                lease = await store.leases.claim("w", lease_s=60, queues=["fake"])
                task = asyncio.create_task(worker_of(store, artifacts, model).work_on(lease))
                await reached(gate)
                os.kill(server.pid, signal.SIGKILL)
                gate.open.set()
                await asyncio.sleep(0.3)  # a commit is tried again and again by then
                await asyncio.to_thread(server.start)
                await task
                return await store.jobs.get(ref), await video_of(store, artifacts, ref)
            finally:
                await connection.close()

        done, data = asyncio.run(main())
        assert done.state is JobState.DONE, done.error
        assert (done.claims, len(engines[0].steps)) == (1, 1)
        assert data == undisturbed(job, model)


@pytest.mark.parametrize("what", ["deleted", "damaged"])
def test_a_lost_snapshot_costs_work_and_no_frame(play, artifacts, tmp_path, what):
    entry, gate = fake_model_entry(steps=4, chunk=2), Gate(18)
    with served(entry, SteppedModel(), gate) as (model, engines):
        job = plan(entry, frames=41)

        async def case(store):
            ref = await submit(store, artifacts, job, model)
            task = asyncio.create_task(work_alone(worker_of(store, artifacts, model)))
            await reached(gate)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            gate.open.set()
            last = (await records_of(store, ref))[-1]
            path = tmp_path / "renders" / "ann" / ref.id / last.snapshot.name
            if what == "deleted":
                path.unlink()
            else:
                path.write_bytes(path.read_bytes()[:-1] + b"x")
            begun = await video_of(store, artifacts, ref)
            done = await finish_job(store, worker_of(store, artifacts, model), ref)
            return last, begun, done, await video_of(store, artifacts, ref)

        last, begun, done, data = play(case)
        assert last.video.frames > 0
        assert last.video.groups > 0
        assert done.state is JobState.DONE, done.error
        assert engines[0].steps[1][0] == 1
        assert data == undisturbed(job, model)
        assert data.startswith(begun)
