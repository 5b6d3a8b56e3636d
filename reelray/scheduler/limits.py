"""How much one engine takes on."""

from dataclasses import dataclass, field

from reelray.proto.model_facts import ModelFacts
from reelray.scheduler.batching import Batching

COMMIT_S = 30.0
"""A whole clip loses no more work than this when a rank of a gang dies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineLimits:
    """Bounds of the engine core.

    Args:
        requests: Requests that hold memory on the ranks at once; further ones wait in order of arrival.
        frame_credit: Pixel frames of a request that may be decoded and not yet acknowledged by its client.
        chunks_ahead: Clean chunks that may wait for decode before the request's next chunk is held back.
        decode_latent_frames: Latent frames decoded at once.
        commit_s: Seconds of work after which the state of a request is written down, besides every chunk's end; None
            never writes it, for engines whose loss leaves nobody to read it.
        mark_chunks: Chunks after which a live stream leaves a mark in host memory, from which going back is quick; None
            leaves none.
        marks: Of a stream; the oldest is given up for another one.
        losses: Gangs that a request may lose while a step of its own is in flight; it may be what kills them.
        batching: When windows of several requests share a forward.
    """

    requests: int = 4
    frame_credit: int = 32
    chunks_ahead: int = 2
    decode_latent_frames: int = 4
    commit_s: float | None = None
    mark_chunks: int | None = None
    marks: int = 4
    losses: int = 2
    batching: Batching = field(default_factory=Batching)

    def __post_init__(self) -> None:
        for name in ("requests", "frame_credit", "chunks_ahead", "decode_latent_frames", "marks", "losses"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")

        if self.mark_chunks is not None and self.mark_chunks < 1:
            raise ValueError(f"mark_chunks is {self.mark_chunks}; it must be at least 1, or None")
        if self.commit_s is not None and self.commit_s <= 0:
            raise ValueError(f"commit_s is {self.commit_s}; it must be greater than 0, or None")

    def piece_latent_frames(self, facts: ModelFacts, *, width: int, height: int) -> int:
        """Latent frames of one decode piece for pictures of this size (pixels)."""
        return max(1, min(self.decode_latent_frames, facts.decode_pixels // (width * height * facts.temporal_stride)))
