"""Jobs that are made, disturbed, given up and cancelled, on a model in closed form."""

import hashlib
import random

import pytest

from reelray.cluster.renders.commit_pace import CommitRule
from reelray.cluster.renders.growing_media import find_media, read_media
from reelray.cluster.renders.unit_record import UnitRecord
from reelray.cluster.store.job import JobState
from reelray.proto.errors import EngineError
from reelray.proto.events import Progress, Stage
from tests.support.render_jobs import (
    QUICK,
    SteppedModel,
    fake_model_entry,
    plan,
    served,
    submit,
    undisturbed,
    worker_of,
)


async def work(store, worker, ref):
    """Work until a job has ended; returns it."""
    while not (await store.jobs.get(ref)).state.ended:
        lease = await store.leases.claim("w", lease_s=QUICK.lease_s, queues=["fake"])
        if lease is not None:
            await worker.work_on(lease)
    return await store.jobs.get(ref)


async def records_of(store, ref):
    return [UnitRecord.from_json(commit.record) for commit in await store.ledger.commits(ref)]


async def video_of(store, artifacts, ref):
    return (await read_media(store, artifacts, ref, most_bytes=1 << 30)).data


@pytest.mark.parametrize("chunk", [None, 2])
def test_a_job_becomes_one_file(play, artifacts, chunk):
    entry = fake_model_entry(chunk=chunk, steps=8)
    with served(entry, SteppedModel()) as (model, engines):
        job = plan(entry)

        async def case(store):
            ref = await submit(store, artifacts, job, model)
            done = await work(store, worker_of(store, artifacts, model), ref)
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
            done = await work(store, worker, ref)
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
