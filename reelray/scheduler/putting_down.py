"""Snapshots: from what the ranks wrote to something that another engine can go on from, and back."""

from collections.abc import Mapping

from reelray.proto.snapshot import Snapshot, SnapshotKind
from reelray.proto.step_plan import DECODE_PART
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
        self._windows = self._pieces = 0
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
        self._pieces = rollout.pieces_done if decoded else self._pieces
        if self._missing:
            return None
        return Snapshot(
            kind=self._kind,
            digest="",
            request=rollout.request,
            windows=self._windows,
            pieces=self._pieces if DECODE_PART in self._parts else 0,
            pieces_sent=rollout.pieces_sent,
            chunks_begun=rollout.chunks_begun,
            frame=rollout.frames_sent,
            parts=self._parts,
        )


def take_up(rollout: Rollout, snapshot: Snapshot) -> None:
    """Have a fresh rollout go on from a snapshot of its request."""
    rollout.saved = Saved(windows=snapshot.windows, pieces=snapshot.pieces, parts=snapshot.parts)
    rollout.pieces_sent, rollout.chunks_begun = snapshot.pieces_sent, snapshot.chunks_begun
    rollout.rewind()
