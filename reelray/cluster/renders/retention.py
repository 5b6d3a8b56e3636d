"""What is taken away: files that nobody knows, and those of jobs that ended long ago or take too much room.

Plain functions; whoever runs them says what time it is. They may run beside workers, and twice at once: a file goes
only when no lease can come to need it any more.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Self

from reelray.cluster.renders.artifact import ASSETS, INPUTS, Artifact, StoredFile, folder_of
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.renders.growing_media import result_video
from reelray.cluster.renders.spec import RenderSpec
from reelray.cluster.renders.unit_files import fence_of, segments_of
from reelray.cluster.renders.unit_record import UnitRecord
from reelray.cluster.store.job import Job, JobState
from reelray.cluster.store.names import JobRef
from reelray.cluster.store.open import Store
from reelray.proto.errors import InputError, UnknownJobError

LOG = logging.getLogger("reelray.renders")


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionRule:
    """How long files are kept.

    Args:
        ttl_s: Seconds after a job's end.
        most_bytes: Of a tenant's ended jobs together; those that ended first go first. None does not count them.
        inputs_s: Seconds for which pictures are kept that no waiting job names.
    """

    ttl_s: float = 7 * 86_400.0
    most_bytes: int | None = None
    inputs_s: float = 86_400.0

    @classmethod
    def of(cls, *, days: float, gigabytes: float | None) -> Self:
        """The rule in the words of options; a gigabyte is 10^9 bytes."""
        return cls(ttl_s=days * 86_400.0, most_bytes=None if gigabytes is None else round(gigabytes * 1e9))


async def sweep_files(store: Store, artifacts: Artifacts, rule: RetentionRule, *, now_s: float) -> int:
    """Do all of the below for all tenants; returns how many bytes went.

    Args:
        store: Knows the jobs.
        artifacts: Has their files.
        rule: How long they are kept.
        now_s: Seconds since 1970.

    Raises:
        StoreError: It does not answer; what was not looked at is there next time.
        ArtifactError: The same.
    """
    freed = 0
    for tenant in await asyncio.to_thread(artifacts.tenants):
        folders = await asyncio.to_thread(artifacts.folders, tenant)
        for ref in _job_refs(tenant, folders):
            freed += await clear_job(store, artifacts, ref)
        freed += await expire_jobs(store, artifacts, tenant, rule, now_s=now_s)
        freed += await clear_inputs(store, artifacts, tenant, older_than_s=now_s - rule.inputs_s)
    return freed


async def clear_job(store: Store, artifacts: Artifacts, ref: JobRef) -> int:
    """Delete the files of a job that nobody can need any more; returns how many bytes they had."""
    # In this order: a file that is listed now and was written by an older lease than the job's cannot be committed.
    files = await asyncio.to_thread(artifacts.files, ref.tenant, folder_of(ref))
    try:
        job = await store.jobs.get(ref)
    except UnknownJobError:
        return await asyncio.to_thread(artifacts.delete_folder, ref.tenant, folder_of(ref))
    commits = await store.ledger.commits(ref)
    try:
        needed = _needed(job, [UnitRecord.from_json(commit.record) for commit in commits])
    except InputError as error:  # of another build, which knows what it needs
        LOG.warning("files of job %s stay until it is old: %s", ref.id, error.message)
        return 0
    writing = job.fence if job.state is JobState.RUNNING else None
    orphans = [
        file for file in files if file.name not in needed and (writing is None or fence_of(file.name) != writing)
    ]
    return await asyncio.to_thread(_delete, artifacts, orphans)


async def expire_jobs(store: Store, artifacts: Artifacts, tenant: str, rule: RetentionRule, *, now_s: float) -> int:
    """Delete all files of jobs that ended too long ago, or that together take too much room."""
    ended = await _ended_jobs(store, artifacts, tenant)
    ended.sort(key=lambda job: job.ended_ms or 0)
    sizes = [await asyncio.to_thread(artifacts.used_bytes, tenant, folder_of(job.ref)) for job in ended]
    left, freed = sum(sizes), 0
    for job, size in zip(ended, sizes, strict=True):
        is_old = now_s - (job.ended_ms or 0) / 1000 > rule.ttl_s
        if is_old or (rule.most_bytes is not None and left > rule.most_bytes):
            freed += await asyncio.to_thread(artifacts.delete_folder, tenant, folder_of(job.ref))
            left -= size
    return freed


async def clear_inputs(store: Store, artifacts: Artifacts, tenant: str, *, older_than_s: float) -> int:
    """Delete pictures that were written before a time and that no job names which has not ended."""
    files = await asyncio.to_thread(artifacts.files, tenant, INPUTS)
    old = [file for file in files if file.modified_s < older_than_s]
    if not old:
        return 0
    named = await _named_pictures(store, tenant)
    # Looked at once more: who submits a picture anew writes it anew first.
    files = await asyncio.to_thread(artifacts.files, tenant, INPUTS)
    unused = [file for file in files if file.modified_s < older_than_s and file.name not in named and file in old]
    return await asyncio.to_thread(_delete, artifacts, unused)


def _needed(job: Job, records: list[UnitRecord]) -> set[str]:
    video = result_video(job)
    if video is not None:
        return {video.name}
    kept: list[Artifact] = list(segments_of(records))
    if records and not job.state.ended:
        last = records[-1]
        kept += [one for one in (last.snapshot, last.tail) if one is not None]
    return {artifact.name for artifact in kept}


async def _ended_jobs(store: Store, artifacts: Artifacts, tenant: str) -> list[Job]:
    jobs = []
    for ref in _job_refs(tenant, await asyncio.to_thread(artifacts.folders, tenant)):
        try:
            job = await store.jobs.get(ref)
        except UnknownJobError:
            continue
        if job.state.ended:
            jobs.append(job)
    return jobs


async def _named_pictures(store: Store, tenant: str) -> set[str]:
    named, states = set[str](), (JobState.QUEUED, JobState.RUNNING, JobState.QUEUED)  # one may go back meanwhile
    for state in states:
        cursor, more = "", True
        while more:
            page = await store.jobs.list(tenant, state=state, cursor=cursor, limit=200)
            named |= {name for job in page.jobs if (name := _picture_of(job))}
            cursor, more = page.cursor, bool(page.cursor)
    return named


def _picture_of(job: Job) -> str | None:
    try:
        picture = RenderSpec.from_json(job.spec).picture
    except InputError:  # it will fail, whatever is there
        return None
    return None if picture is None else picture.name


def _job_refs(tenant: str, folders: Iterable[str]) -> list[JobRef]:
    return [JobRef(tenant=tenant, id=folder) for folder in folders if folder not in {ASSETS, INPUTS}]


def _delete(artifacts: Artifacts, files: Collection[StoredFile]) -> int:
    for file in files:
        artifacts.delete(file.tenant, file.folder, file.name)
    return sum(file.size_bytes for file in files)
