"""A recipe: everything about a rollout that is data and not weights.

A whole-clip model is the one-chunk case: `Chunking(latent_frames=None)`. Fields follow the rollout abstraction
of the architecture page; more of them join with the code that reads them.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise

from reelray.proto.chunking import Chunking
from reelray.proto.storage import Storage


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

    @property
    def length(self) -> int:
        """Denoise steps of one chunk; of all but the first ones."""
        return len(self.timesteps) or self.steps

    def of_chunk(self, chunk: int) -> "Schedule":
        """The schedule of one chunk."""
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


class Sink(StrEnum):
    """What becomes of the first frames of a video."""

    FIRST = "first"  # they stay as they are
    MOVING = "moving"  # frames that leave are folded into them


class Placement(StrEnum):
    """How attended frames are placed in time."""

    ABSOLUTE = "absolute"  # where they stand in the video
    RELATIVE = "relative"  # 0, 1, ... in the order of the regions, the window last
    # The sink right before the latest frames, which stand where they stand in the video. A clean pass attends the
    # latest frames only, as many as sink and local are in all.
    ANCHORED = "anchored"
    WRAPPED = (
        "wrapped"  # where they stand in the video, until that is `wrap`: then from the last attended place on again
    )


class Commit(StrEnum):
    """Which forward leaves its keys and values in memory."""

    CLEAN = "clean_pass"  # one more, of the clean chunk
    LAST_STEP = "last_step"  # that of the last denoise step
    EVERY_STEP = "every_step"  # each, in a memory of its own for each noise level; of the first chunk the last, in all


class PromptSwitch(StrEnum):
    """What a change of the prompt does to memory."""

    KEEP = "keep"  # nothing: only the text is another one
    RECACHE = "recache"  # the latest frames are remembered anew, under the new prompt
    FLUSH = "flush"  # all but the sink and the latest frames is forgotten


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryRule:
    """What a chunk attends of those before it.

    Args:
        local: Latest latent frames that are attended, those of the chunk included.
        sink: First latent frames of the video that are attended for ever.
        sink_kind: What becomes of them.
        sink_kept: Share of a moving sink that stays when a frame is folded into it.
        means: For each running mean of frames that have left, the share of the newest one.
        placement: Positions of what is attended.
        wrap: Temporal position that no frame has where places are wrapped.
        commit: Which forward is remembered.
        commit_timestep: Timestep of the clean pass.
        switch: What a change of the prompt does.
        switch_frames: Latest latent frames that a change of the prompt remembers anew, the sink's counted in, or those
            that it keeps besides the sink.
        storage: How keys and values are kept; 8 bits take about half the room and are not exact.
    """

    local: int
    sink: int = 0
    sink_kind: Sink = Sink.FIRST
    sink_kept: float = 0.999
    means: tuple[float, ...] = ()
    placement: Placement = Placement.ABSOLUTE
    wrap: int = 0
    commit: Commit = Commit.CLEAN
    commit_timestep: float = 0.0
    switch: PromptSwitch = PromptSwitch.KEEP
    switch_frames: int = 0
    storage: Storage = Storage.EXACT

    @property
    def is_endless(self) -> bool:
        """Whether positions never run out: what is attended is counted anew for every chunk, or places come again."""
        return self.placement in {Placement.RELATIVE, Placement.WRAPPED}

    @property
    def attended(self) -> int:
        """Most latent frames that a chunk attends, its own included."""
        return self.sink + len(self.means) + self.local

    @property
    def held(self) -> int:
        """Most latent frames that are remembered at once, those of a chunk that is being remembered included."""
        unseen = self.sink if self.placement is Placement.ANCHORED else 0  # clean passes reach farther back
        return self.attended + unseen

    def place(self, latent_frame: int) -> int:
        """Where a frame of the video stands in time when places are absolute, or wrapped."""
        begin = self.attended - 1
        if self.placement is not Placement.WRAPPED or latent_frame < begin:
            return latent_frame
        return begin + (latent_frame - begin) % (self.wrap - begin)

    def __post_init__(self) -> None:
        self._check_places()
        if self.commit is Commit.EVERY_STEP and self.switch is PromptSwitch.RECACHE:
            raise ValueError("switch is recache; it remembers clean frames, and with commit every_step none are")
        if self.switch is not PromptSwitch.KEEP and self.switch_frames < 1:
            raise ValueError(f"switch_frames is {self.switch_frames}; for {self.switch} it must be at least 1")
        if self.switch is PromptSwitch.RECACHE and self.switch_frames > self.sink + self.local:
            raise ValueError(
                f"switch_frames is {self.switch_frames}; sink and local frames are {self.sink + self.local} in all"
            )
        moves = self.sink_kind is Sink.MOVING or bool(self.means)
        if self.switch is PromptSwitch.RECACHE and (moves or self.switch_frames <= self.sink):
            raise ValueError("switch is recache; it takes more switch_frames than the sink has, and no means of frames")
        if self.local < 1 or self.sink < 0:
            raise ValueError(f"local is {self.local} and sink is {self.sink}; they must be at least 1 and 0")
        if not 0 <= self.sink_kept <= 1:
            raise ValueError(f"sink_kept is {self.sink_kept}; it must lie in 0..1")
        if any(not 0 < share <= 1 for share in self.means):
            raise ValueError(f"means holds {list(self.means)}; every share must lie in 0..1 and not be 0")
        if not 0 <= self.commit_timestep <= 1000:
            raise ValueError(f"commit_timestep is {self.commit_timestep}; it must lie in 0..1000")

    def _check_places(self) -> None:
        wraps = self.placement is Placement.WRAPPED
        if self.wrap < self.attended if wraps else self.wrap:
            raise ValueError(
                f"wrap is {self.wrap}; with placement wrapped it must be at least {self.attended}, as many frames as "
                "are attended, and 0 with others"
            )
        moves = self.sink_kind is Sink.MOVING or bool(self.means)
        if moves and self.storage is not Storage.EXACT:
            raise ValueError(f"storage is {self.storage}, in which a mean of frames loses what is folded in; use exact")
        if moves and self.placement is not Placement.RELATIVE:
            raise ValueError(
                f"placement is {self.placement}, and means of frames have no place in the video; use relative"
            )


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
        decoder: Name of the latent decoder, such as ``wan_exact_stream``.
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
    decoder: str = "wan_exact_stream"
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
        if self.task == "i2v" and self.is_endless:
            raise ValueError(
                f"memory.placement is {self.memory.placement}, and an i2v model looks for its picture by absolute "
                "positions"
            )
        if self.memory.commit is Commit.EVERY_STEP and self.schedule.first_chunks:
            raise ValueError(
                "memory.commit is every_step; all chunks must have the same steps, and first_chunks differ"
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
        if self.memory is None:
            return
        if self.memory.commit is not Commit.CLEAN:
            raise ValueError("chunking.stagger needs memory.commit clean_pass: other forwards are of several chunks")
        if self.memory.switch is not PromptSwitch.KEEP:
            raise ValueError("chunking.stagger needs memory.switch keep: chunks in flight are of both prompts")
