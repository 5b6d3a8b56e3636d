"""How a recipe cuts a video in time, and how many of its chunks are on their way at once."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunking:
    """How a video is cut in time.

    Args:
        latent_frames: Latent frames generated together; None means the whole clip is one chunk.
        first_latent_frames: Size of the first chunk; None means the same as the others.
        stagger: Denoise steps that a chunk is ahead of the next one; those in flight share every forward. None makes
            one chunk after the other.
        round_latent_frames: Chunks are made in rounds of so many latent frames, counted from 0 in each. All of a round
            are in all its forwards: those that wait as noise, those that are done as they are. None means no rounds.
        overlap: Latent frames of one round that begin the next one, as its given past.
        overlap_timestep: At which these are noised anew for every forward.
    """

    latent_frames: int | None = None
    first_latent_frames: int | None = None
    stagger: int | None = None
    round_latent_frames: int | None = None
    overlap: int = 0
    overlap_timestep: float = 0.0

    def __post_init__(self) -> None:
        for name in ("latent_frames", "first_latent_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1, or null for the whole clip")
        if self.stagger is not None:
            self._check_stagger(self.stagger)
        if self.round_latent_frames is not None:
            self._check_rounds(self.round_latent_frames)
        elif self.overlap:
            raise ValueError(f"overlap is {self.overlap}; it is a part of a round, and needs round_latent_frames")

    @property
    def text_frames(self) -> tuple[int, int] | None:
        """Latent frames that go by one prompt at least: the first ones, and those that follow; None for whole clips."""
        if self.latent_frames is None:
            return None
        if self.round_latent_frames is not None:
            return self.round_latent_frames, self.round_latent_frames - self.overlap
        return self.first_latent_frames or self.latent_frames, self.latent_frames

    def _check_stagger(self, stagger: int) -> None:
        if self.latent_frames is None:
            raise ValueError("stagger needs latent_frames; a whole clip has no next chunk")
        if stagger < (self.round_latent_frames is None):
            raise ValueError(f"stagger is {stagger}; it must be at least 1, or 0 where there are rounds")

    def _check_rounds(self, frames: int) -> None:
        size = self.latent_frames
        if size is None or self.stagger is None or self.first_latent_frames is not None:
            raise ValueError("round_latent_frames needs latent_frames and stagger, and no first_latent_frames")
        if frames < 1 or frames % size or self.overlap % size or not 0 <= self.overlap < frames:
            raise ValueError(
                f"round_latent_frames is {frames} and overlap is {self.overlap}; they must be multiples of "
                f"latent_frames, which is {size}, and the overlap the smaller one"
            )
        if not 0 <= self.overlap_timestep <= 1000:
            raise ValueError(f"overlap_timestep is {self.overlap_timestep}; it must lie in 0..1000")
