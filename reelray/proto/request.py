"""A validated wish for one video, and what came of it."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NewType

from reelray.proto.layout import Layout
from reelray.proto.patching import Patching
from reelray.proto.recipe import Recipe
from reelray.proto.residency import Residency
from reelray.proto.sparsity import SparsityPolicy, SparsityReport

RequestId = NewType("RequestId", str)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptChange:
    """Another prompt from some time on.

    Args:
        latent_frame: It holds for the first chunk that begins there or later.
        prompt: What to show from then on.
        cut: Whether another scene begins there, for recipes that can cut.
    """

    latent_frame: int
    prompt: str
    cut: bool = False

    def __post_init__(self) -> None:
        if self.latent_frame < 1:
            raise ValueError(f"latent_frame is {self.latent_frame}; the first prompt holds at 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderRequest:
    """One video, every default already filled in.

    Args:
        request_id: Unique in the engine.
        prompt: What to show.
        negative_prompt: Text of the unconditional branch; may be empty.
        width: Pixels, fits the model.
        height: Pixels, fits the model.
        frames: Pixel frames, 4n+1 for Wan.
        seed: Noise seed, 0 <= seed < 2**63.
        recipe: Sampling as data; step count and guidance of the request are already merged into it.
        image: RGB bytes of the first frame at `width` x `height` (H, W, 3 uint8), for i2v models.
        patching: How much may be approximated where ranks split the layers; None means nothing.
        sparsity: What of self-attention may be left out; None means nothing.
        changes: Prompts that follow the first, in order of time.
        live: Whether it may grow while it runs, so that its last chunk is remembered too where that takes no forward.
        pace_fps: Frames per second at which it is played while it is made: turns go by when its frames are due. None
            lets it have what others leave, in turn.
    """

    request_id: RequestId
    prompt: str
    negative_prompt: str
    width: int
    height: int
    frames: int
    seed: int
    recipe: Recipe
    image: bytes | None = None
    patching: Patching | None = None
    sparsity: SparsityPolicy | None = None
    changes: tuple[PromptChange, ...] = ()
    live: bool = False
    pace_fps: float | None = None

    @property
    def scenes(self) -> int:
        """Scenes that it cuts to."""
        return sum(change.cut for change in self.changes)

    def __post_init__(self) -> None:
        times = [change.latent_frame for change in self.changes]
        if any(a >= b for a, b in pairwise(times)):
            raise ValueError(f"prompts change at latent frames {times}; every one must come after the one before")
        memory = self.recipe.memory
        if any(change.cut for change in self.changes) and (memory is None or not memory.knows_scenes):
            raise ValueError(
                f"a scene is cut, and recipe {self.recipe.name} has no memory.cut_position and no pinned sink"
            )
        if self.pace_fps is not None and self.pace_fps <= 0:
            raise ValueError(f"pace_fps is {self.pace_fps}; it must be greater than 0, or None")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must lie in 0..2**63-1")
        if self.image is not None and len(self.image) != self.width * self.height * 3:
            raise ValueError(f"image holds {len(self.image)} bytes; {self.width * self.height * 3} were expected")


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderSummary:
    """What ran, for how long, and on what.

    Args:
        request_id: The request.
        model: Name of the recipe.
        model_digest: Hex digest over the checkpoint's files.
        frames: Pixel frames made.
        width: Pixels.
        height: Pixels.
        seed: Noise seed.
        steps: Denoise steps.
        forwards: Transformer evaluations, both guidance branches counted.
        device: Such as ``cpu`` or ``NVIDIA H200``.
        dtype: Such as ``bfloat16``.
        stage_s: Seconds per stage: load, text, denoise, decode, and regroup where the state went to other ranks.
        peak_bytes: Peak memory of the engine process (device memory on a GPU); of the fullest rank.
        layout: How the ranks shared the video.
        residency: Where the weights were while they did not compute.
        decode_ranks: Ranks beside those of the layout that did nothing but decode.
        patching: What was approximated; None where the ranks made the video of one rank.
        sparsity: What of self-attention was left out; None where nothing was to be.
    """

    request_id: RequestId
    model: str
    model_digest: str
    frames: int
    width: int
    height: int
    seed: int
    steps: int
    forwards: int
    device: str
    dtype: str
    stage_s: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0
    layout: Layout = field(default_factory=Layout)
    residency: Residency = field(default_factory=Residency)
    decode_ranks: int = 0
    patching: Patching | None = None
    sparsity: SparsityReport | None = None
