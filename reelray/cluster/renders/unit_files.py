"""The files of commit units: written before the ledger hears of them, named so that no two leases share one.

The fence in a name says which lease wrote it. What an older lease wrote and the ledger does not know will never be
known to it, so whoever cleans up can tell without a clock.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from itertools import chain

from reelray.cluster.renders.artifact import Artifact, folder_of
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.renders.growing_video import GrowingVideo
from reelray.cluster.renders.unit_record import UnitRecord
from reelray.cluster.snapshot_file import SnapshotFile, parse_snapshot, snapshot_pieces
from reelray.cluster.store.leases import Lease
from reelray.proto.errors import GoneError, SnapshotError
from reelray.proto.snapshot import Snapshot

LOG = logging.getLogger("reelray.renders")
_FENCE = re.compile(r"(?:u\d+|video)-f(\d+)-")


def fence_of(name: str) -> int | None:
    """Fence of the lease that wrote a file; None where no lease did."""
    found = _FENCE.match(name)
    return int(found[1]) if found else None


def write_unit(artifacts: Artifacts, lease: Lease, unit: int, snapshot: Snapshot, video: GrowingVideo) -> UnitRecord:
    """Write what a commit unit consists of.

    Args:
        artifacts: Where to.
        lease: Who writes.
        unit: Number of the unit.
        snapshot: Where the engine goes on.
        video: Grown up to the same frame.

    Raises:
        ArtifactError: It cannot be written.
    """
    assert video.place.frames == snapshot.frame, "a unit's files are of one moment"
    at = lease.ref.tenant, folder_of(lease.ref), f"u{unit}-f{lease.fence}"
    fresh, tail = video.take(), video.tail
    file = SnapshotFile(snapshot=snapshot, model=video.model, fps=video.fps)
    return UnitRecord(
        steps=snapshot.windows,
        video=video.place,
        segment=artifacts.write(*at, ".seg", fresh) if fresh else None,
        tail=artifacts.write(*at, ".tail", tail) if tail else None,
        snapshot=artifacts.write(*at, ".snap", snapshot_pieces(file)),
    )


def write_video(artifacts: Artifacts, lease: Lease, records: Sequence[UnitRecord], last: bytes) -> Artifact:
    """Write the whole video as one file.

    Args:
        artifacts: Where to.
        lease: Who writes.
        records: Of all units.
        last: What follows their segments.

    Raises:
        ArtifactError: It cannot be written.
        GoneError: A segment is not there.
    """
    segments = (artifacts.pieces(segment) for segment in segments_of(records))
    data = chain(chain.from_iterable(segments), (last,))
    return artifacts.write(lease.ref.tenant, folder_of(lease.ref), f"video-f{lease.fence}", ".mp4", data)


def read_snapshot(artifacts: Artifacts, record: UnitRecord) -> Snapshot | None:
    """Where an engine goes on; None where that cannot be read, and all is to be made anew.

    Raises:
        ArtifactError: It cannot be read now.
    """
    try:
        with artifacts.opened(record.snapshot) as file:
            return parse_snapshot(record.snapshot.name, file).snapshot
    except (SnapshotError, GoneError) as error:
        LOG.warning("the frames before a commit are made anew: %s", error)
        return None


def drop_superseded(artifacts: Artifacts, record: UnitRecord) -> None:
    """Delete what is of no use once a later unit is in the ledger."""
    for artifact in (record.snapshot, record.tail):
        if artifact is not None:
            artifacts.delete(artifact.tenant, artifact.folder, artifact.name)


def segments_of(records: Sequence[UnitRecord]) -> Iterator[Artifact]:
    """The parts of the video, in order."""
    return (record.segment for record in records if record.segment is not None)
