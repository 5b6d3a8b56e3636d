"""A recipe: everything about a rollout that is data and not weights.

A whole-clip model is the one-chunk case: `Chunking(latent_frames=None)`. Fields follow the rollout abstraction
of the architecture page; those of long-video memory join them with the code that reads them.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class Solver(StrEnum):
    """How one denoise step moves the latents."""

    EULER = "euler"
    UNIPC = "unipc"
    DPMPP = "dpm++"
    X0_RENOISE = "x0_renoise"
    LCM = "lcm"


class Prediction(StrEnum):
    """What the network's output means."""

    FLOW = "flow"
    EPSILON = "epsilon"
    X0 = "x0"
    V = "v"


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Noise levels of one chunk.

    Args:
        solver: How a step moves the latents.
        steps: Number of denoise steps when `timesteps` is empty.
        timesteps: Explicit timestep list in [0, 1000], largest first; empty means `steps` values by the solver.
        shift: Timestep shift s: sigma = s*u / (1 + (s-1)*u).
        warp: Map each entry v of `timesteps` through the shifted 1000-entry table (entry 1000 - v).
        prediction: What the network predicts.
    """

    solver: Solver = Solver.UNIPC
    steps: int = 50
    timesteps: tuple[float, ...] = ()
    shift: float = 5.0
    warp: bool = False
    prediction: Prediction = Prediction.FLOW

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")
        if self.shift <= 0:
            raise ValueError(f"shift is {self.shift}; it must be greater than 0")
        if any(not 0 <= t <= 1000 for t in self.timesteps):
            raise ValueError(f"timesteps holds {list(self.timesteps)}; every value must lie in 0..1000")
        if any(a <= b for a, b in zip(self.timesteps, self.timesteps[1:], strict=False)):
            raise ValueError(f"timesteps holds {list(self.timesteps)}; values must fall strictly")

    @property
    def length(self) -> int:
        """Denoise steps of one chunk."""
        return len(self.timesteps) or self.steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Guidance:
    """Classifier-free guidance.

    Args:
        scale: w in uncond + w * (cond - uncond); 1.0 switches the second forward off.
        per_step: One weight per step, overriding `scale`; empty means `scale` at every step.
        interval: Guidance acts only where sigma lies in [low, high]; elsewhere the weight is 1.
    """

    scale: float = 5.0
    per_step: tuple[float, ...] = ()
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"interval is {self.interval}; it must be [low, high] with 0 <= low <= high <= 1")

    @property
    def needs_unconditional(self) -> bool:
        """Whether any step may evaluate the unconditional branch."""
        return any(weight != 1.0 for weight in self.per_step or (self.scale,))


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunking:
    """How a video is cut in time.

    Args:
        latent_frames: Latent frames generated together; None means the whole clip is one chunk.
        first_latent_frames: Size of the first chunk; None means the same as the others.
    """

    latent_frames: int | None = None
    first_latent_frames: int | None = None

    def __post_init__(self) -> None:
        for name in ("latent_frames", "first_latent_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1, or null for the whole clip")


@dataclass(frozen=True, kw_only=True, slots=True)
class Defaults:
    """What a request gets when it does not say.

    Args:
        width: Pixels.
        height: Pixels.
        frames: Pixel frames, 4n+1.
        fps: Frames per second of the written video.
        negative_prompt: Text of the unconditional branch.
    """

    width: int = 832
    height: int = 480
    frames: int = 81
    fps: int = 16
    negative_prompt: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Binds a model family to the way it is sampled.

    Args:
        name: Preset or checkpoint name, shown to users.
        model: Key of the model registry, such as ``wan``.
        task: ``t2v`` or ``i2v``.
        schedule: Noise levels.
        guidance: Classifier-free guidance.
        chunking: Chunks in latent frames.
        defaults: Request defaults.
        text_tokens: Text slots the transformer attends, zero padding included.
        decoder: Name of the latent decoder, such as ``wan_exact_stream``.
        licence: SPDX tag or name of the weights' licence.
    """

    name: str
    model: str = "wan"
    task: str = "t2v"
    schedule: Schedule = field(default_factory=Schedule)
    guidance: Guidance = field(default_factory=Guidance)
    chunking: Chunking = field(default_factory=Chunking)
    defaults: Defaults = field(default_factory=Defaults)
    text_tokens: int = 512
    decoder: str = "wan_exact_stream"
    licence: str = "unknown"
