"""Jobs that are made, disturbed, given up and cancelled, on a model in closed form."""

import asyncio
import hashlib
import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.renders.attempt import Attempt, Surroundings
from reelray.cluster.renders.commit_pace import CommitRule
from reelray.cluster.renders.growing_media import find_media
from reelray.cluster.renders.retention import RetentionRule, clear_job, sweep_files
from reelray.cluster.renders.worker import UNEXPECTED, WorkerHabits
from reelray.cluster.store.connection import Connection, StoreAddress
from reelray.cluster.store.embedded import EmbeddedStore
from reelray.cluster.store.job import JobState, NewJob
from reelray.cluster.store.open import Store
from reelray.proto.errors import EndedError, EngineError, LeaseLostError, UnsupportedError
from reelray.proto.events import Progress, Stage
from reelray.proto.session import Stop
from tests.support.fake_model import FakeModel
from tests.support.render_jobs import (
    EVERY_STEP,
    Gate,
    SteppedModel,
    fake_model_entry,
    finish_job,
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


def is_idle(engine, ref, fence):
    """Whether an engine has given up what a lease had it make."""
    try:
        engine.tell(f"{ref.id}-{fence}", Stop())
    except EndedError:
        return True
    except UnsupportedError:  # a whole clip is not stopped like a stream
        return False
    return False


@pytest.mark.parametrize("chunk", [None, 2])
def test_a_job_becomes_one_file(play, artifacts, chunk):
    entry = fake_model_entry(chunk=chunk, steps=8)
    with served(entry, SteppedModel()) as (model, engines):
        job = plan(entry)

        async def case(store):
            ref = await submit(store, artifacts, job, model)
            done = await finish_job(store, worker_of(store, artifacts, model), ref)
            return (
                done,
                await store.ledger.commits(ref),
                await find_media(store, ref),
                await video_of(store, artifacts, ref),
            )

        done, commits, media, data = play(case)
        assert done.state is JobState.DONE, done.error
        assert data == undisturbed(job, model)
        assert media.complete
        assert done.result["video"]["sha256"] == hashlib.sha256(data).hexdigest()
        assert [file.name for file in artifacts.files("ann", done.ref.id)] == [media.parts[0].name]
        assert engines[0].snapshots >= len(commits) == done.result["commits"] > 0


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
        assert done.fence == len(lost) + 1 == len(steps) >= 2
        committed = [record.steps for record in records]
        assert committed == sorted(set(committed))
        for at, following in zip(lost, steps[1:], strict=True):
            went_on_after = following[0] - 1 if following else 12 if chunk is None else 36
            assert went_on_after in [0, *committed]
            # Two steps are under way by the time that the ranks hear of a snapshot.
            assert at - went_on_after <= unit + 2
        left = -1
        assert data == undisturbed(job, model)


def test_a_cancelled_job_stops_the_engine_at_its_next_step(play, artifacts):
    entry, gate, fake = fake_model_entry(steps=900), Gate(5), FakeModel(step_s=0.001)
    gate.open.set()

    def watch(event):
        gate(event)
        if gate.reached.is_set():
            fake.gate.clear()  # the step in flight takes long

    with served(entry, fake, watch) as (model, _):

        async def case(store):
            ref = await submit(store, artifacts, plan(entry), model)
            lease = await store.leases.claim("w", lease_s=60, queues=["fake"])
            task = asyncio.create_task(worker_of(store, artifacts, model, rule=CommitRule(share=None)).work_on(lease))
            await reached(gate)
            await store.jobs.cancel(ref, "not wanted")
            await task
            await until(lambda: is_idle(model.engine, ref, 1))
            return await store.jobs.get(ref)

        try:
            ended = play(case)
            calls = len(fake.calls)
        finally:
            fake.gate.set()
    assert (ended.state, ended.error) == (JobState.CANCELLED, "not wanted")
    assert calls < 500
    assert len(fake.calls) <= calls + 1


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
    assert (done.state, done.fence) == (JobState.DONE, 1)


@pytest.mark.parametrize("chunk", [None, 2])
def test_a_zombie_commits_nothing_and_stops(play, artifacts, chunk):
    entry, gate = fake_model_entry(steps=24, chunk=chunk), Gate(6)
    with served(entry, SteppedModel(), gate) as (old, _), served(entry, SteppedModel()) as (new, engines):
        job = plan(entry)

        async def case(store):
            ref = await submit(store, artifacts, job, old)
            lease = await store.leases.claim("old", lease_s=0.05, queues=["fake"])
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
            await until(lambda: is_idle(old.engine, ref, 1))
            between = await store.ledger.commits(ref)
            left_over = {file.name for file in artifacts.files("ann", ref.id)}
            await worker_of(store, artifacts, new).work_on(lease)
            done = await store.jobs.get(ref)
            return before, between, left_over, done, await video_of(store, artifacts, ref)

        before, between, left_over, done, data = play(case)
        assert len(before) > 0
        assert between == before
        assert any(name.startswith(f"u{len(before)}-f1-") for name in left_over)  # it tried
        assert done.state is JobState.DONE, done.error
        assert data == undisturbed(job, new)
        assert engines[0].steps[0][0] == before[-1].record["steps"] + 1
        assert [file.name[:8] for file in artifacts.files("ann", done.ref.id)] == ["video-f2"]


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
            await until(lambda: is_idle(model.engine, ref, 1))
            return other, await store.jobs.get(ref)

        other, left = play(case)
        gate.open.set()
        assert (left.state, left.fence, other.fence) == (JobState.RUNNING, 2, 2)


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
        assert ended.fence == ended.max_attempts == len(engines[0].steps)
        assert artifacts.files("ann", ended.ref.id) == []


def test_the_more_attempts_fail_the_longer_a_job_rests():
    habits = WorkerHabits(retry_after_s=5.0)
    assert [habits.rest_s(attempts) for attempts in (1, 2, 3, 4)] == [5, 20, 80, 320]


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
        assert done.fence == 3
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
        assert (done.fence, len(engines[0].steps)) == (1, 1)
        assert data == undisturbed(job, model)


def test_a_worker_that_ends_gives_its_job_back(play, artifacts):
    entry, gate = fake_model_entry(steps=24), Gate(6)
    with served(entry, SteppedModel(), gate) as (model, engines):
        job = plan(entry)

        async def case(store):
            ref = await submit(store, artifacts, job, model)
            task = asyncio.create_task(work_alone(worker_of(store, artifacts, model)))
            await reached(gate)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            gate.open.set()
            given_back = await store.jobs.get(ref)
            await sweep_files(store, artifacts, RetentionRule(), now_s=0.0)
            done = await finish_job(store, worker_of(store, artifacts, model), ref)
            return given_back, done, await records_of(store, ref), await video_of(store, artifacts, ref)

        given_back, done, records, data = play(case)
        assert (given_back.state, given_back.owner) == (JobState.QUEUED, "")
        assert given_back.attempts <= 1  # of them a commit is one
        assert data == undisturbed(job, model)
        assert engines[0].steps[1][0] > 1
        assert len(records) == done.result["commits"]


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


def test_what_can_never_be_made_fails_at_once(play, artifacts):
    entry = fake_model_entry()
    with served(entry, FakeModel()) as (model, _):

        async def case(store):
            ref = await submit(store, artifacts, plan(entry), model)
            spec = (await store.jobs.get(ref)).spec
            wrong = [{**spec, "digest": "0ther"}, {**spec, "version": 9}, {}]
            refs = [(await store.jobs.submit(NewJob(tenant="ann", spec=one, queue="fake"))).ref for one in wrong]
            return [await finish_job(store, worker_of(store, artifacts, model), ref) for ref in refs]

        jobs = play(case)
        assert [(job.state, job.fence) for job in jobs] == [(JobState.FAILED, 1)] * 3
        assert "planned for model 'fake' with digest 0ther" in jobs[0].error
        assert "version 9" in jobs[1].error


def test_an_unexpected_failure_is_tried_again_and_tells_nothing_of_the_inside(play, artifacts):
    entry = fake_model_entry()

    def fail(_event):
        raise RuntimeError("at 0x7f, in secret.py")

    with served(entry, FakeModel(), fail) as (model, _):

        async def case(store):
            ref = await submit(store, artifacts, plan(entry), model)
            return await finish_job(store, worker_of(store, artifacts, model), ref)

        ended = play(case)
        assert (ended.state, ended.error, ended.fence) == (JobState.FAILED, UNEXPECTED, ended.max_attempts)


def test_those_who_watch_hear_how_far_it_is(play, artifacts):
    entry = fake_model_entry(steps=8)
    with served(entry, SteppedModel()) as (model, _):

        async def case(store):
            ref = await submit(store, artifacts, plan(entry), model)
            await finish_job(store, worker_of(store, artifacts, model), ref)
            return [event async for event in store.events.follow(ref)]

        events = play(case)
        steps = [
            event.value["done"] for event in events if event.kind == "progress" and event.value["stage"] == "denoise"
        ]
        assert steps == list(range(1, 9))
        assert [event.data for event in events if event.kind == "state"] == ["queued", "running", "done"]
        assert "commit" in {event.kind for event in events}


def test_several_jobs_share_a_worker(play, artifacts):
    entry = fake_model_entry(steps=2, chunk=2)
    with served(entry, FakeModel()) as (model, _):
        jobs = [plan(entry, seed=seed) for seed in range(6)]

        async def case(store):
            refs = [await submit(store, artifacts, job, model) for job in jobs]
            habits = WorkerHabits(owner="w", lease_s=60)
            task = asyncio.create_task(work_alone(worker_of(store, artifacts, model, habits=habits), slots=3))
            for ref in refs:
                async for _ in store.events.follow(ref):
                    pass
            media = [await find_media(store, ref) for ref in refs]
            videos = [await video_of(store, artifacts, ref) for ref in refs]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for ref in refs:
                await clear_job(store, artifacts, ref)
            return media, videos

        media, videos = play(case)
        assert all(one.complete for one in media)
        assert videos == [undisturbed(job, model) for job in jobs]


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("every", [1, 3, 5])
def test_who_makes_room_loses_no_frame_and_hardly_a_step(play, artifacts, chunk, every):
    entry, asked = fake_model_entry(chunk=chunk, steps=12), []
    left, ask = every, None

    def watch(event):
        nonlocal left
        if isinstance(event, Progress) and event.stage is Stage.DENOISE and ask is not None:
            left -= 1
            if left == 0:
                ask()

    with served(entry, SteppedModel(), watch) as (model, engines):
        job = plan(entry, frames=21)

        async def case(store):
            nonlocal left, ask
            loop, lefts = asyncio.get_running_loop(), []
            ref, worker = await submit(store, artifacts, job, model), worker_of(store, artifacts, model)
            while not (now := await store.jobs.get(ref)).state.ended:
                assert now.attempts == 0  # it was asked to; that is no failure
                lease = await worker.claim(ref)
                attempt = worker.attempt(lease)
                left, ask = every, lambda attempt=attempt: loop.call_soon_threadsafe(attempt.make_room)
                asked.append(await worker.work_on(lease, attempt))
                lefts.append(attempt.left)
                await until(lambda fence=lease.fence: is_idle(model.engine, ref, fence))
            return now, lefts, await records_of(store, ref), await video_of(store, artifacts, ref)

        ended, lefts, records, data = play(case)
        ask = None
        assert ended.state is JobState.DONE, ended.error
        assert len(asked) == ended.fence >= 2
        assert asked == [False] * (len(asked) - 1) + [True]
        assert lefts == sorted(lefts, reverse=True)
        for before, after in pairwise(engines[0].steps):
            went_on_after = after[0] - 1 if after else records[-1].steps
            assert went_on_after in [0, *(record.steps for record in records)]
            assert before[-1] - went_on_after <= 2
        assert data == undisturbed(job, model)
