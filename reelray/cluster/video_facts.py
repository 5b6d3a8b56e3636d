"""What is known of a video before it is made, wherever it is made: what reports and files say of it."""

from dataclasses import dataclass
from fractions import Fraction

from reelray.cluster.render import RenderJob
from reelray.cluster.video_writer import VideoSpec
from reelray.proto.decoder import Decoder
from reelray.proto.patching import Patching
from reelray.proto.request import PromptChange
from reelray.proto.sparsity import SparsityPolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFacts:
    """One video, every default filled in.

    Args:
        model: Its name.
        prompt: What it shows.
        negative_prompt: What it avoids.
        width: Pixels.
        height: Pixels.
        frames: Pixel frames.
        fps: Frames per second.
        seed: Noise seed.
        steps: Denoise steps.
        guidance: Weight of guidance.
        decoder: What makes its pictures.
        changes: Prompts that follow the first.
        patching: How much is approximated where ranks split the layers; None means nothing.
        sparsity: What of self-attention may be left out; None means nothing.
        grows: Whether it may become longer.
    """

    model: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    frames: int
    fps: Fraction
    seed: int
    steps: int
    guidance: float
    decoder: Decoder
    changes: tuple[PromptChange, ...] = ()
    patching: Patching | None = None
    sparsity: SparsityPolicy | None = None
    grows: bool = False

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.frames / float(self.fps)


def facts_of(job: RenderJob) -> VideoFacts:
    """What is known of a job's video."""
    request, recipe = job.request, job.request.recipe
    return VideoFacts(
        model=job.model.name,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        width=request.width,
        height=request.height,
        frames=request.frames,
        fps=job.fps,
        seed=request.seed,
        steps=recipe.schedule.length,
        guidance=recipe.guidance.scale,
        decoder=recipe.decoder,
        changes=request.changes,
        patching=request.patching,
        sparsity=request.sparsity,
        grows=request.live,
    )


def spec_of(facts: VideoFacts, metadata: dict[str, object], *, first_frame: int = 0) -> VideoSpec:
    """What a writer must know.

    Args:
        facts: Of the whole video.
        metadata: What travels in the file.
        first_frame: Where the file begins that goes on from a snapshot.
    """
    return VideoSpec(
        width=facts.width,
        height=facts.height,
        frames=facts.frames - first_frame,
        fps=facts.fps,
        grows=facts.grows,
        metadata=metadata,
    )
