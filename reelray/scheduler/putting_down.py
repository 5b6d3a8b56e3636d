"""Snapshots: from what the ranks wrote to something that another engine can go on from, and back."""

from collections.abc import Mapping
from dataclasses import replace

from reelray.proto.commit_parts import DECODE_PART
from reelray.proto.errors import SnapshotError
from reelray.proto.snapshot import Snapshot, SnapshotKind
from reelray.scheduler.rollout import Rollout
from reelray.scheduler.saved import Saved


class PuttingDown:
    """The snapshot of one request in the making; crews write their parts in plans that were formed together.

    Args:
        rollout: Of the request.
        kind: How what is remembered is written.
        crews: How many.
    """

    def __init__(self, rollout: Rollout, kind: SnapshotKind, crews: int) -> None:
        self._rollout, self._kind = rollout, kind
        self._parts: dict[str, bytes] = {}
        self._windows = self._decoded = 0
        self._crews = self._missing = crews
        rollout.put_down = kind

    def begin_anew(self) -> None:
        """Have the crews write their parts again; what ranks that are gone wrote is of no use any more."""
        self._missing, self._parts = self._crews, {}
        self._rollout.put_down = self._kind

    def take(self, parts: Mapping[str, bytes], *, denoised: bool, decoded: bool) -> Snapshot | None:
        """Take in what a crew wrote; returns the snapshot when it is complete, without its digest.

        Args:
            parts: What it wrote.
            denoised: Whether it is the crew that denoises.
            decoded: Whether it is the one that decodes.
        """
        rollout, self._missing = self._rollout, self._missing - 1
        self._parts |= parts
        self._windows = rollout.windows_done if denoised else self._windows
        self._decoded = rollout.decoded if decoded else self._decoded
        if self._missing:
            return None
        return Snapshot(
            kind=self._kind,
            digest="",
            request=rollout.request,
            windows=self._windows,
            decoded=self._decoded if DECODE_PART in self._parts else 0,
            chunks_begun=rollout.chunks_begun,
            frame=rollout.frames_sent,
            parts=self._parts,
        )


def take_up(rollout: Rollout, snapshot: Snapshot) -> None:
    """Have a fresh rollout go on from a snapshot of its request.

    Raises:
        SnapshotError: It is one of another request or decoder, or was decoded in pieces of another size.
    """
    request = rollout.request
    decoders = snapshot.request.recipe.decoder, request.recipe.decoder
    if decoders[0] is not decoders[1]:
        raise SnapshotError(f"the stream was decoded by {decoders[0]}; {decoders[1]} cannot go on from where it stands")
    if replace(snapshot.request, request_id=request.request_id) != request:
        raise SnapshotError("the request is not the one of its snapshot; only its name may be another")
    ends = [0, *(piece.end for piece in rollout.pieces)]
    if snapshot.decoded not in ends:
        raise SnapshotError("the snapshot comes from an engine that decodes pieces of another size")
    pieces = ends.index(snapshot.decoded)
    rollout.saved = Saved(windows=snapshot.windows, pieces=pieces, parts=snapshot.parts or None)
    rollout.pieces_sent = sum(rollout.facts.frames(end) <= snapshot.frame for end in ends[1:])
    rollout.chunks_begun = snapshot.chunks_begun
    rollout.rewind()
