"""Jobs that are made, watched, given up and cancelled, on a model in closed form."""

import asyncio
import hashlib
from itertools import pairwise

import pytest

from reelray.cluster.renders.commit_pace import CommitRule
from reelray.cluster.renders.growing_media import find_media
from reelray.cluster.renders.retention import RetentionRule, clear_job, sweep_files
from reelray.cluster.renders.worker import UNEXPECTED, WorkerHabits
from reelray.cluster.store.job import JobState, NewJob
from reelray.proto.events import Progress, Stage
from tests.support.fake_model import FakeModel
from tests.support.render_jobs import (
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
            await until(lambda: is_idle(model.engine, ref, lease.fence))
            return await store.jobs.get(ref)

        try:
            ended = play(case)
            calls = len(fake.calls)
        finally:
            fake.gate.set()
    assert (ended.state, ended.error) == (JobState.CANCELLED, "not wanted")
    assert calls < 500
    assert len(fake.calls) <= calls + 1


def test_the_more_attempts_fail_the_longer_a_job_rests():
    habits = WorkerHabits(retry_after_s=5.0)
    assert [habits.rest_s(attempts) for attempts in (1, 2, 3, 4)] == [5, 20, 80, 320]


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
        assert [(job.state, job.claims) for job in jobs] == [(JobState.FAILED, 1)] * 3
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
        assert (ended.state, ended.error, ended.claims) == (JobState.FAILED, UNEXPECTED, ended.max_attempts)


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
        assert len(asked) == ended.claims >= 2
        assert asked == [False] * (len(asked) - 1) + [True]
        assert lefts == sorted(lefts, reverse=True)
        for before, after in pairwise(engines[0].steps):
            went_on_after = after[0] - 1 if after else records[-1].steps
            assert went_on_after in [0, *(record.steps for record in records)]
            assert before[-1] - went_on_after <= 2
        assert data == undisturbed(job, model)
