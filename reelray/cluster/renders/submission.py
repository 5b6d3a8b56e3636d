"""From a planned video to a job in the store."""

import asyncio
from dataclasses import dataclass

from reelray.cluster.render import RenderJob
from reelray.cluster.renders.artifact import Artifact
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.renders.spec import RenderSpec, picture_place, queue_of
from reelray.cluster.store.job import NewJob
from reelray.cluster.store.jobs import Submitted
from reelray.cluster.store.limits import NO_LIMITS, SubmitLimits
from reelray.cluster.store.open import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """Who wants a video, and how badly.

    Args:
        tenant: Whose.
        key: The client's key: the same key and wish are the same job.
        priority: -100 to 100.
        limits: Of the tenant.
        retention_s: How long the job is known after its end.
        webhook: Who is told of its end; empty for nobody.
        remixed_from: Id of the render whose wish it repeats with a change; empty for none.
        deadline_ms: When it should be complete, in milliseconds since 1970; None without one.
        id: Its id; None chooses one.
    """

    tenant: str
    key: str | None = None
    priority: int = 0
    limits: SubmitLimits = NO_LIMITS
    retention_s: float = 7 * 86_400.0
    webhook: str = ""
    remixed_from: str = ""
    deadline_ms: int | None = None
    id: str | None = None


async def submit_render(
    store: Store, artifacts: Artifacts, job: RenderJob, digest: str, submission: Submission
) -> Submitted:
    """Put a planned video into the store; a worker makes it.

    Where the client named a key and no seed, plan the job with `seed_for_key`, so that a repetition is the same wish.

    Args:
        store: Keeps the job.
        artifacts: Keeps its picture.
        job: What `plan_job` made of the wish.
        digest: Of the model.
        submission: Whose wish.

    Raises:
        ConflictError: The client's key belongs to another wish.
        QuotaError: A limit of the tenant is reached.
        InputError: The job is too large for the store.
        ArtifactError: The picture cannot be written.
    """
    image, picture = job.request.image, None
    if image is not None:
        picture = await asyncio.to_thread(_write_picture, artifacts, submission.tenant, image)
    new = NewJob(
        tenant=submission.tenant,
        spec=RenderSpec.of(job, digest, picture).to_json(),
        key=submission.key,
        queue=queue_of(job.model.name),
        priority=submission.priority,
        retention_s=submission.retention_s,
        webhook=submission.webhook,
        remixed_from=submission.remixed_from,
        deadline_ms=submission.deadline_ms,
        id=submission.id,
    )
    return await store.jobs.submit(new, submission.limits)


def _write_picture(artifacts: Artifacts, tenant: str, image: bytes) -> Artifact:
    return artifacts.write(*picture_place(tenant), image)
