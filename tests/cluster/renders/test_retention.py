"""What is taken away, and what is not, whoever works meanwhile."""

import asyncio
import os
import time
from dataclasses import replace

import pytest
from PIL import Image

from reelray.cluster.renders.artifact import INPUTS
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.renders.growing_media import find_media, read_media
from reelray.cluster.renders.retention import RetentionRule, clear_inputs, clear_job, expire_jobs, sweep_files
from reelray.cluster.renders.spec import picture_place
from reelray.cluster.store.job import JobState, NewJob
from reelray.proto.errors import GoneError, InputError, UnknownJobError
from tests.support.fake_model import FakeModel
from tests.support.render_jobs import (
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
    video_of,
    work_alone,
    worker_of,
)

KEEP = RetentionRule(ttl_s=1e9, inputs_s=1e9)


def names(artifacts, ref):
    return {file.name for file in artifacts.files(ref.tenant, ref.id)}


def test_beside_a_worker_only_orphans_go(play, artifacts):
    entry, gate = fake_model_entry(steps=8, chunk=2), Gate(14)
    with served(entry, SteppedModel(), gate) as (model, _):

        async def case(store):
            ref = await submit(store, artifacts, plan(entry, frames=41), model)
            lease = await store.leases.claim("w", lease_s=0.02, queues=["fake"])
            artifacts.write("ann", ref.id, f"u0-f{lease.fence}", ".snap", b"an attempt that was lost")
            task = asyncio.create_task(work_alone(worker_of(store, artifacts, model)))
            await reached(gate)
            job, records = await store.jobs.get(ref), await records_of(store, ref)
            artifacts.write("ann", ref.id, f"u99-f{job.fence}", ".snap", b"not committed yet")
            before = names(artifacts, ref)
            await sweep_files(store, artifacts, KEEP, now_s=0.0)
            after = names(artifacts, ref)
            gate.open.set()
            async for _ in store.events.follow(ref):
                pass
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await clear_job(store, artifacts, ref)
            fences = lease.fence, job.fence
            return fences, before, after, records, names(artifacts, ref), await find_media(store, ref)

        fences, before, after, records, end, media = play(case)
        assert {name.split("-")[0] for name in before - after} == {"u0"}
        assert all(f"-f{fences[0]}-" in name for name in before - after)
        assert len(before - after) == 1
        assert any(name.startswith(f"u99-f{fences[1]}-") for name in after)
        assert records[-1].snapshot.name in after
        assert end == {media.parts[0].name}


def test_a_job_that_was_cancelled_keeps_what_was_to_be_seen(play, artifacts):
    entry, gate = fake_model_entry(steps=8, chunk=2), Gate(24)
    with served(entry, SteppedModel(), gate) as (model, _):
        job = plan(entry, frames=41)

        async def case(store):
            ref = await submit(store, artifacts, job, model)
            task = asyncio.create_task(work_alone(worker_of(store, artifacts, model)))
            await reached(gate)
            begun = await video_of(store, artifacts, ref)
            await store.jobs.cancel(ref)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            gate.open.set()
            await clear_job(store, artifacts, ref)
            return ref, begun, await read_media(store, artifacts, ref, most_bytes=1 << 30)

        ref, begun, left = play(case)
        assert len(begun) > 0
        assert begun == left.data
        assert (left.complete, left.job.state) == (False, JobState.CANCELLED)
        assert undisturbed(job, model).startswith(begun)
        assert {name.rpartition(".")[2] for name in names(artifacts, ref)} == {"seg"}


def test_files_of_jobs_that_nobody_knows_go(play, artifacts):
    entry = fake_model_entry()
    with served(entry, FakeModel()) as (model, _):

        async def case(store):
            ref = await submit(store, artifacts, plan(entry), model, retention_s=0.05)
            await finish_job(store, worker_of(store, artifacts, model), ref)
            there = len(names(artifacts, ref))
            await asyncio.sleep(0.1)
            with pytest.raises(UnknownJobError):
                await store.jobs.get(ref)
            freed = await sweep_files(store, artifacts, KEEP, now_s=0.0)
            return there, freed, names(artifacts, ref)

        there, freed, left = play(case)
        assert there == 1
        assert freed > 0
        assert left == set()


def test_what_another_build_wrote_and_folders_of_others_hold_nothing_up(play, artifacts, tmp_path):
    entry = fake_model_entry()
    with served(entry, FakeModel()) as (model, _):

        async def case(store):
            ref = await submit(store, artifacts, plan(entry), model)
            lease = await store.leases.claim("w", lease_s=60, queues=["fake"])
            kept = artifacts.write("ann", ref.id, f"u0-f{lease.fence}", ".snap", b"of another build")
            await store.ledger.commit(lease, 0, {"version": "another"})
            await store.jobs.cancel(ref)
            artifacts.write("zoe", "0" * 32, "u0-f1", ".seg", b"of a job that nobody knows")
            for folder in ("lost+found", "ann/.snapshots"):
                (tmp_path / "renders" / folder).mkdir()
            await sweep_files(store, artifacts, KEEP, now_s=0.0)
            return names(artifacts, ref) == {kept.name}

        assert play(case)
        assert artifacts.files("zoe", "0" * 32) == []
        assert (tmp_path / "renders" / "ann" / ".snapshots").is_dir()


def test_old_jobs_and_then_the_oldest_ones_give_up_their_files(play, artifacts):
    entry = fake_model_entry(steps=1)
    with served(entry, FakeModel()) as (model, _):

        async def case(store):
            refs = []
            for seed in range(4):
                refs.append(await submit(store, artifacts, plan(entry, seed=seed), model))
                await finish_job(store, worker_of(store, artifacts, model), refs[-1])
                await asyncio.sleep(0.003)
            jobs = [await store.jobs.get(ref) for ref in refs]
            waiting = await submit(store, artifacts, plan(entry, seed=9), model)
            artifacts.write("ann", waiting.id, "u0-f0", ".snap", b"x" * 100_000)
            sizes = [artifacts.used_bytes("ann", ref.id) for ref in refs]
            counts = []
            now_s = jobs[0].ended_ms / 1000 + 10.0015  # just more than ten seconds after the first
            for rule in (
                replace(KEEP, ttl_s=11.0),
                replace(KEEP, ttl_s=10.0),
                replace(KEEP, most_bytes=sum(sizes[1:])),
                replace(KEEP, most_bytes=sum(sizes[1:]) - 1),
                replace(KEEP, most_bytes=0),
            ):
                freed = await expire_jobs(store, artifacts, "ann", rule, now_s=now_s)
                counts.append((freed, [len(names(artifacts, ref)) for ref in refs]))
            with pytest.raises(GoneError):
                await read_media(store, artifacts, refs[0])
            return sizes, counts, artifacts.used_bytes("ann", waiting.id), [await store.jobs.get(ref) for ref in refs]

        sizes, counts, others, jobs = play(case)
        assert counts == [
            (0, [1, 1, 1, 1]),
            (sizes[0], [0, 1, 1, 1]),
            (0, [0, 1, 1, 1]),
            (sizes[1], [0, 0, 1, 1]),
            (sizes[2] + sizes[3], [0, 0, 0, 0]),
        ]
        assert others == 100_000
        assert all(job.state is JobState.DONE for job in jobs)


def test_pictures_stay_as_long_as_a_job_waits_for_them(play, artifacts, tmp_path):
    entry = fake_model_entry(steps=2)
    entry = replace(entry, recipe=replace(entry.recipe, task="i2v"))
    images = [Image.new("RGB", (32, 16), colour) for colour in ("black", "white")]
    with served(entry, FakeModel()) as (model, _):
        jobs = [plan(entry, image=image, size="32x16") for image in images]

        async def case(store):
            refs = [await submit(store, artifacts, job, model) for job in jobs]
            again = await submit(store, artifacts, jobs[0], model, key="k")
            assert again == await submit(store, artifacts, jobs[0], model, key="k")
            await store.jobs.submit(NewJob(tenant="ann", spec={"other": 1}))  # of another build
            unused = artifacts.write(*picture_place("ann"), b"unused")
            folder, counts = tmp_path / "renders" / "ann" / INPUTS, []
            for file in folder.iterdir():
                os.utime(file, (1000, 1000))
            for older_than_s in (1000, 1001):
                freed = await clear_inputs(store, artifacts, "ann", older_than_s=older_than_s)
                counts.append((freed, len(list(folder.iterdir()))))
            assert unused.name not in {file.name for file in folder.iterdir()}
            worker = worker_of(store, artifacts, model)
            videos = []
            for ref in refs:
                done = await finish_job(store, worker, ref)
                assert done.state is JobState.DONE, done.error
                videos.append(await video_of(store, artifacts, ref))
            await clear_inputs(store, artifacts, "ann", older_than_s=1001)
            counts.append(len(list(folder.iterdir())))  # the one of the job with a key is waited for
            return counts, videos

        counts, videos = play(case)
        assert counts == [(0, 3), (6, 2), 1]
        assert videos == [undisturbed(job, model) for job in jobs]
        assert videos[0] != videos[1]


def test_a_picture_of_another_tenant_is_not_read(play, artifacts):
    entry = fake_model_entry(steps=2)
    entry = replace(entry, recipe=replace(entry.recipe, task="i2v"))
    with served(entry, FakeModel()) as (model, _):
        job = plan(entry, image=Image.new("RGB", (32, 16)), size="32x16")

        async def case(store):
            ref = await submit(store, artifacts, job, model)
            spec = (await store.jobs.get(ref)).spec
            other = await store.jobs.submit(NewJob(tenant="bob", spec=spec, queue="fake"))
            return await finish_job(store, worker_of(store, artifacts, model), other.ref)

        ended = play(case)
        assert (ended.state, ended.claims) == (JobState.FAILED, 1)
        assert "picture is another's" in ended.error


def test_ranges_of_a_video_are_its_bytes(play, artifacts):
    entry, gate = fake_model_entry(steps=6, chunk=2), Gate(28)
    with served(entry, SteppedModel(), gate) as (model, _):
        job = plan(entry, frames=65)

        async def case(store):
            ref = await submit(store, artifacts, job, model)
            waiting = await read_media(store, artifacts, ref)
            task = asyncio.create_task(work_alone(worker_of(store, artifacts, model)))
            await reached(gate)
            media = await find_media(store, ref)
            size = media.size_bytes
            edges = {0, 1, size - 1, size, size + 5, *(part.size_bytes for part in media.parts)}
            pieces = [
                (at, most, (await read_media(store, artifacts, ref, offset=at, most_bytes=most)).data)
                for at in edges
                for most in (1, 1000, 1 << 30)
            ]
            gate.open.set()
            async for _ in store.events.follow(ref):
                pass
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await clear_job(store, artifacts, ref)
            whole = await video_of(store, artifacts, ref)
            for wrong in ({"offset": -1}, {"offset": len(whole) + 1}, {"most_bytes": 0}):
                with pytest.raises(InputError):
                    await read_media(store, artifacts, ref, **wrong)
            end = await read_media(store, artifacts, ref, offset=len(whole))
            return waiting, media, pieces, whole, end

        waiting, media, pieces, whole, end = play(case)
        assert (waiting.data, waiting.complete, waiting.size_bytes) == (b"", False, 0)
        assert len(media.parts) >= 2
        for at, most, data in pieces:
            assert data == whole[at : min(at + most, media.size_bytes)]
        assert (end.data, end.complete, end.size_bytes) == (b"", True, len(whole))
        assert whole == undisturbed(job, model)


def test_a_reader_is_not_disturbed_by_the_end_of_a_job(play, artifacts, tmp_path):
    entry, gate = fake_model_entry(steps=6, chunk=2), Gate(28)
    with served(entry, SteppedModel(), gate) as (model, _):
        job = plan(entry, frames=65)

        class Late(Artifacts):
            """Reads only after the job has ended and its parts have become one file."""

            def read(self, artifact, begin=0, end=None):
                gate.open.set()
                folder = tmp_path / "renders" / "ann" / artifact.folder
                while {path.suffix for path in folder.iterdir()} != {".mp4"}:
                    time.sleep(0.002)
                return super().read(artifact, begin, end)

        async def case(store):
            ref = await submit(store, artifacts, job, model)
            task = asyncio.create_task(work_alone(worker_of(store, artifacts, model)))
            await reached(gate)
            begun = await find_media(store, ref)
            piece = await read_media(store, Late(tmp_path / "renders"), ref, offset=9, most_bytes=200)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return begun, piece

        begun, piece = play(case)
        assert not begun.complete
        assert begun.size_bytes > 209
        assert piece.complete
        assert piece.data == undisturbed(job, model)[9:209]
