"""What a plan is made for: one video of one model."""

from dataclasses import dataclass, field

from reelray.proto.chunking import Chunking
from reelray.proto.errors import InputError
from reelray.proto.memory_rule import Commit, MemoryRule
from reelray.proto.model_facts import ModelFacts
from reelray.proto.model_sizes import ModelSizes
from reelray.scheduler.chunks import Span, cut_chunks
from reelray.scheduler.turns import list_turns


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Tokens of one forward: those it maps, and those it attends, memory included."""

    tokens: int
    attended: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanJob:
    """One video.

    Args:
        facts: Geometry of the model.
        sizes: Sizes of its networks.
        width: Pixels.
        height: Pixels.
        frames: Pixel frames.
        steps: Denoise steps per chunk.
        guided_steps: Those of them that need the second branch of guidance.
        chunking: Chunks in latent frames.
        memory: What a chunk attends of those before it; None lets every chunk stand alone.
        value_bytes: Bytes of a weight and of an activation.

    Raises:
        SizeError: The size does not fit the model.
        InputError: Steps are missing.
    """

    facts: ModelFacts
    sizes: ModelSizes
    width: int
    height: int
    frames: int
    steps: int
    guided_steps: int = 0
    chunking: Chunking = field(default_factory=Chunking)
    memory: MemoryRule | None = None
    value_bytes: int = 2

    def __post_init__(self) -> None:
        self.facts.latent_size(self.width, self.height)
        assert self.latent_frames
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; it must be at least 1")
        if not 0 <= self.guided_steps <= self.steps:
            raise InputError(f"guided steps are {self.guided_steps}; they must lie in 0..{self.steps}")

    @property
    def latent_frames(self) -> int:
        """Latent frames of the clip."""
        endless = self.memory is not None and self.memory.is_endless
        return self.facts.latent_frames(self.frames, endless=endless)

    @property
    def chunks(self) -> tuple[Span, ...]:
        """The clip cut in time."""
        return cut_chunks(self.chunking, self.latent_frames)

    @property
    def windows(self) -> tuple[Window, ...]:
        """One window per chunk; where chunks share forwards, one per forward."""
        if self.chunking.stagger is None:
            return self.chunk_windows
        turns = list_turns(self.chunking, self.steps, self.chunks)
        return tuple(self._window(turn.span) for turn in turns)

    @property
    def chunk_windows(self) -> tuple[Window, ...]:
        """One window per chunk, as its clean pass has it."""
        return tuple(self._window(chunk) for chunk in self.chunks)

    @property
    def window_steps(self) -> tuple[int, int]:
        """Denoise steps of each window, guided and not."""
        if self.chunking.stagger is None:
            return self.guided_steps, self.steps - self.guided_steps
        return int(self.guided_steps > 0), int(self.guided_steps == 0)

    @property
    def clean_passes(self) -> int:
        """Forwards that do nothing but remember: of each chunk, or of what is made up anew before one."""
        return len(self.chunks) - 1 if self.memory is not None and self.memory.commit is not Commit.LAST_STEP else 0

    @property
    def branches(self) -> int:
        """Guidance branches whose text and memory are kept."""
        return 2 if self.guided_steps else 1

    @property
    def forwards(self) -> int:
        """Transformer evaluations of the clip."""
        guided, unguided = self.window_steps
        return (2 * guided + unguided) * len(self.windows) + self.branches * self.clean_passes

    @property
    def latent_cells(self) -> int:
        """Latent cells of one latent frame."""
        rows, columns = self.facts.latent_size(self.width, self.height)
        return rows * columns

    def _window(self, span: Span) -> Window:
        most = 0 if self.memory is None else self.memory.attended
        attended = max(span.length, min(span.end, most))
        return Window(tokens=self._tokens(span.length), attended=self._tokens(attended))

    def _tokens(self, latent_frames: int) -> int:
        return self.facts.tokens(latent_frames, self.width, self.height)
