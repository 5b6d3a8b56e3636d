"""A recipe: everything about a rollout that is data and not weights.

A whole-clip model is the one-chunk case: `Chunking(latent_frames=None)`. Fields follow the rollout abstraction
of the architecture page; more of them join with the code that reads them.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise

from reelray.proto.chunking import Chunking
from reelray.proto.decoder import Decoder
from reelray.proto.memory_rule import Commit, MemoryRule, PromptSwitch, Sink


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
        drop_last_step: Leave out the last of the timesteps; it must be 0, where a forward hardly moves the latents.
        first_chunks: Timestep lists of the first chunks of a video, one for each; the others go by `timesteps`.
        loses_start: Correct the first step of UniPC from where it led, not from where it began. The published loop of
            SkyReels-V2 does, by writing over the latents that its solver keeps.
    """

    solver: Solver = Solver.UNIPC
    steps: int = 50
    timesteps: tuple[float, ...] = ()
    shift: float = 5.0
    warp: bool = False
    prediction: Prediction = Prediction.FLOW
    drop_last_step: bool = False
    first_chunks: tuple[tuple[float, ...], ...] = ()
    loses_start: bool = False

    def __post_init__(self) -> None:
        if self.loses_start and self.solver is not Solver.UNIPC:
            raise ValueError(f"loses_start is a fault of unipc, and the solver is {self.solver}")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")
        if self.shift <= 0:
            raise ValueError(f"shift is {self.shift}; it must be greater than 0")
        for name, listed in (("timesteps", self.timesteps), *(("first_chunks", one) for one in self.first_chunks)):
            if any(not 0 <= t <= 1000 for t in listed):
                raise ValueError(f"{name} holds {list(listed)}; every value must lie in 0..1000")
            if any(a <= b for a, b in pairwise(listed)):
                raise ValueError(f"{name} holds {list(listed)}; values must fall strictly")
        if self.first_chunks and not self.timesteps:
            raise ValueError("first_chunks needs timesteps for the chunks that follow")
        if not all(self.first_chunks):
            raise ValueError("first_chunks holds an empty list; every chunk needs a step")
        if self.drop_last_step and (self.first_chunks or len(self.timesteps) < 2 or self.timesteps[-1] != 0):
            raise ValueError("drop_last_step needs timesteps that end in 0, more than that, and no first_chunks")

    @property
    def length(self) -> int:
        """Denoise steps of one chunk; of all but the first ones."""
        return len(self.timesteps) - self.drop_last_step if self.timesteps else self.steps

    def of_chunk(self, chunk: int) -> "Schedule":
        """The schedule of one chunk."""
        if self.drop_last_step:
            return replace(self, timesteps=self.timesteps[:-1], drop_last_step=False)
        if not self.first_chunks:
            return self
        listed = self.first_chunks[chunk] if chunk < len(self.first_chunks) else self.timesteps
        return replace(self, timesteps=listed, first_chunks=())


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
        memory: What a chunk attends of those before it; None lets every chunk stand alone.
        defaults: Request defaults.
        longer: Name of the checkpoint beside this one that makes streams, and videos longer than `defaults.frames`;
            empty where this one makes them itself.
        text_tokens: Text slots the transformer attends, zero padding included.
        decoder: What turns latents into pictures.
        licence: SPDX tag or name of the weights' licence.
    """

    name: str
    model: str = "wan"
    task: str = "t2v"
    schedule: Schedule = field(default_factory=Schedule)
    guidance: Guidance = field(default_factory=Guidance)
    chunking: Chunking = field(default_factory=Chunking)
    memory: MemoryRule | None = None
    defaults: Defaults = field(default_factory=Defaults)
    longer: str = ""
    text_tokens: int = 512
    decoder: Decoder = Decoder.WAN_EXACT_STREAM
    licence: str = "unknown"

    @property
    def is_endless(self) -> bool:
        """Whether its positions never run out."""
        if self.chunking.round_latent_frames is not None:
            return True
        return self.memory is not None and self.memory.is_endless

    @property
    def in_flight(self) -> int:
        """Most chunks that share a forward."""
        chunking = self.chunking
        if chunking.stagger is None or chunking.latent_frames is None:
            return 1
        if chunking.round_latent_frames is not None:
            return chunking.round_latent_frames // chunking.latent_frames
        return -(-self.schedule.length // chunking.stagger)

    def __post_init__(self) -> None:
        if self.chunking.stagger is not None:
            self._check_flight(self.chunking.stagger)
        lengths = {len(listed) for listed in (*self.schedule.first_chunks, self.schedule.timesteps)}
        if self.guidance.per_step and self.schedule.first_chunks and len(lengths) > 1:
            raise ValueError(
                "guidance.per_step has a weight for every step, and first_chunks have other numbers of steps"
            )
        if self.memory is None:
            return
        chunk = self.chunking.latent_frames
        if chunk is None:
            raise ValueError("memory needs chunking.latent_frames; a whole clip has no chunk before it")
        if self.memory.local < max(chunk, self.chunking.first_latent_frames or 0):
            raise ValueError(f"memory.local is {self.memory.local}; a chunk's own frames count too, and are {chunk}")
        if self.memory.local < chunk * self.in_flight:
            raise ValueError(
                f"memory.local is {self.memory.local}; frames of all chunks in flight count too, and are "
                f"{chunk * self.in_flight}"
            )
        self._check_anew(self.memory, chunk)
        if self.task == "i2v" and self.is_endless:
            raise ValueError(
                f"memory.placement is {self.memory.placement}, and an i2v model looks for its picture by absolute "
                "positions"
            )
        if self.memory.sink_kind is Sink.ADAPTIVE and chunk > 1:
            raise ValueError(f"memory.sink_kind is adaptive, frame by frame, and a chunk has {chunk} latent frames")
        if self.memory.commit is Commit.EVERY_STEP and self.schedule.first_chunks:
            raise ValueError(
                "memory.commit is every_step; all chunks must have the same steps, and first_chunks differ"
            )

    def _check_anew(self, memory: MemoryRule, chunk: int) -> None:
        """What memories that begin anew, or choose, need of chunks."""
        if memory.commit is Commit.REBUILD and memory.attended <= chunk:
            raise ValueError(
                "memory.commit is rebuild, and there is nothing besides a chunk; give it a sink or more local"
            )
        if (memory.rollout or memory.bank) and (self.chunking.first_latent_frames or chunk) != chunk:
            raise ValueError("memory.rollout and memory.bank need a first chunk as long as the others")
        if memory.rollout % chunk or memory.overlap % chunk:
            raise ValueError(
                f"memory.rollout is {memory.rollout} and memory.overlap {memory.overlap}; both must be whole chunks of "
                f"{chunk}"
            )

    def _check_flight(self, stagger: int) -> None:
        """What chunks in flight cannot have."""
        if self.schedule.first_chunks:
            raise ValueError("chunking.stagger needs the same steps for all chunks, and schedule.first_chunks differ")
        if stagger > self.schedule.length:
            raise ValueError(f"chunking.stagger is {stagger}; a chunk has {self.schedule.length} steps")
        if self.guidance.per_step or self.guidance.interval != (0.0, 1.0):
            raise ValueError("chunking.stagger needs one guidance scale: chunks in a forward are at different steps")
        if self.task != "t2v":
            raise ValueError("chunking.stagger needs task t2v")
        rounds = self.chunking.round_latent_frames is not None
        if rounds is (self.memory is not None):
            raise ValueError("chunking.stagger needs memory or chunking.round_latent_frames, and takes not both")
        if self.memory is not None:
            _check_flight_memory(self.memory)


def _check_flight_memory(memory: MemoryRule) -> None:
    if memory.commit is not Commit.CLEAN:
        raise ValueError("chunking.stagger needs memory.commit clean_pass: other forwards are of several chunks")
    if memory.switch is not PromptSwitch.KEEP:
        raise ValueError("chunking.stagger needs memory.switch keep: chunks in flight are of both prompts")
    if memory.bank or memory.rollout or memory.sink_kind in {Sink.BOUNCING, Sink.ADAPTIVE}:
        raise ValueError("chunking.stagger takes no memory.bank, no memory.rollout and no bouncing or adaptive sink")
    if memory.knows_scenes:
        raise ValueError(
            "chunking.stagger takes no memory.cut_position and no pinned sink: chunks in flight are of both scenes"
        )
