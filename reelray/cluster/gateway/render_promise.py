"""The deadline of a render that is to be kept: promised before it is stored, or refused with the predicted time."""

import time
from dataclasses import replace

from reelray.cluster.coordinator.desk import Desk
from reelray.cluster.coordinator.messages import Clip, Wish
from reelray.cluster.gateway.archive import in_plain_words
from reelray.cluster.render import RenderJob
from reelray.cluster.renders.submission import Submission
from reelray.cluster.store.jobs import Jobs
from reelray.cluster.store.names import JobRef
from reelray.proto.request import RequestId
from reelray.scheduler.fleet.ticket import Service


async def with_promise(desk: Desk, jobs: Jobs, job: RenderJob, submission: Submission) -> Submission:
    """Ask whether a deadline can be kept, unless there is none, or its key is known: then it was asked.

    Args:
        desk: Asks the coordinator.
        jobs: Of the store.
        job: What is to be made.
        submission: By when, and whose.

    Returns:
        The submission, with the id that the promise is for.

    Raises:
        DeadlineError: It cannot; the message says when it would be done.
        CoordinatorError: Nobody decides.
    """
    deadline_ms, wanted = submission.deadline_ms, job.request
    if deadline_ms is None:
        return submission
    if submission.key is not None:
        with in_plain_words():
            if await jobs.has_key(submission.tenant, submission.key):
                return submission
    ref = JobRef.fresh(submission.tenant)
    wish = Wish(
        request_id=RequestId(str(ref)),
        model=job.model.name,
        clip=Clip(width=wanted.width, height=wanted.height, frames=wanted.frames, recipe=wanted.recipe),
        tenant=submission.tenant,
        service=Service.BATCH,
        priority=submission.priority,
        within_s=max(0.0, deadline_ms / 1000 - time.time()),
    )
    await desk.inquire(wish)
    return replace(submission, id=ref.id)
