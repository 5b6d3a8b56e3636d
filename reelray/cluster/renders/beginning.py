"""Where an attempt begins: a job's spec, and what the ledger has of it."""

import asyncio
from dataclasses import dataclass

from reelray.cluster.gateway.served_models import ServedModel
from reelray.cluster.render import RenderJob
from reelray.cluster.renders.artifact import INPUTS
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.renders.growing_video import GrowingVideo
from reelray.cluster.renders.spec import RenderSpec
from reelray.cluster.renders.unit_files import read_snapshot
from reelray.cluster.renders.unit_record import UnitRecord
from reelray.cluster.store.leases import Lease
from reelray.cluster.store.open import Store
from reelray.proto.errors import InputError, UnsupportedError
from reelray.proto.request import RequestId
from reelray.proto.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True, slots=True)
class Beginning:
    """What an attempt goes on from.

    Args:
        job: What is made.
        records: Of the units that are durable.
        snapshot: Of the last one; None begins with the first frame, and those that the video has are dropped.
        video: What is there of it.
    """

    job: RenderJob
    records: tuple[UnitRecord, ...]
    snapshot: Snapshot | None
    video: GrowingVideo


async def begin(store: Store, artifacts: Artifacts, lease: Lease, model: ServedModel) -> Beginning:
    """Find out where to go on.

    Raises:
        InputError: The spec is none, or of another model.
        StoreError: The ledger cannot be read now.
        ArtifactError: Files cannot be read now.
    """
    spec = RenderSpec.from_json(lease.job.spec)
    digest = model.description.digest
    if spec.digest != digest:
        raise UnsupportedError(
            f"the job was planned for model '{spec.model}' with digest {spec.digest}, and the one here has {digest}; "
            "submit it again"
        )
    # Read after the claim: no older lease can add to it any more.
    commits = await store.ledger.commits(lease.ref)
    records = tuple(UnitRecord.from_json(commit.record) for commit in commits)
    return await asyncio.to_thread(_read, artifacts, spec, lease, model, records)


def _read(
    artifacts: Artifacts, spec: RenderSpec, lease: Lease, model: ServedModel, records: tuple[UnitRecord, ...]
) -> Beginning:
    name = RequestId(f"{lease.ref.id}-{lease.fence}")
    job = spec.job(model.entry, name, _read_picture(artifacts, spec, lease))
    if not records:
        return Beginning(job=job, records=(), snapshot=None, video=GrowingVideo(job, spec.digest))
    last = records[-1]
    snapshot = read_snapshot(artifacts, last)
    if snapshot is None:
        return Beginning(
            job=job, records=records, snapshot=None, video=GrowingVideo.without_tail(job, spec.digest, last.video)
        )
    tail = artifacts.read(last.tail) if last.tail is not None else b""
    video = GrowingVideo(job, spec.digest, last.video, tail)
    return Beginning(job=job, records=records, snapshot=snapshot, video=video)


def _read_picture(artifacts: Artifacts, spec: RenderSpec, lease: Lease) -> bytes | None:
    picture = spec.picture
    if picture is None:
        return None
    if (picture.tenant, picture.folder) != (lease.ref.tenant, INPUTS):
        raise InputError("the job's picture is another's")
    return artifacts.read(picture)
