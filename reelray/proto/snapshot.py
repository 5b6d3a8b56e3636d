"""A stream put down, so that it can be taken up again: on the same engine or on another one, now or later."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from reelray.proto.request import RenderRequest


class SnapshotKind(StrEnum):
    """How what is remembered is put down."""

    EXACT = "exact"  # as it is: large, and taken up at once
    REPLAY = "replay"  # as the inputs of the forwards that made it: small, and they are repeated
    QUICK = "quick"  # as those of the chunks that are attended now: as small, quicker, and not the same bits


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A stream put down.

    Args:
        kind: How.
        digest: Of the model's files; only that model can go on.
        request: By what was said until then.
        windows: Window steps done.
        decoded: Latent frames that the decoder's state has behind it.
        chunks_begun: Chunks whose prompts are settled.
        frame: The first pixel frame that did not go out; those before it are not sent again.
        parts: What the ranks wrote, by name; nothing means the beginning.
    """

    kind: SnapshotKind
    digest: str
    request: RenderRequest
    windows: int
    decoded: int
    chunks_begun: int
    frame: int
    parts: Mapping[str, bytes]

    @property
    def is_lossy(self) -> bool:
        """Whether what follows may differ from what would have followed."""
        return self.kind is SnapshotKind.QUICK
