"""What may be said to a stream while it runs, and how it then stands."""

from dataclasses import dataclass
from typing import TypeAlias

from reelray.proto.errors import ReelrayError
from reelray.proto.request import PromptChange, RenderRequest, RequestId


@dataclass(frozen=True, kw_only=True, slots=True)
class Say:
    """Go by another prompt.

    Args:
        prompt: What to show.
        latent_frame: It holds for the first chunk that begins there or later; None means the next chunk that has not
            begun.
        cut: Whether another scene begins there, for recipes that can cut.
    """

    prompt: str
    latent_frame: int | None = None
    cut: bool = False

    def __post_init__(self) -> None:
        if self.latent_frame is not None and self.latent_frame < 0:
            raise ValueError(f"latent_frame is {self.latent_frame}; it must be at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Extend:
    """Make the video longer.

    Args:
        latent_frames: By how much.
    """

    latent_frames: int

    def __post_init__(self) -> None:
        if self.latent_frames < 1:
            raise ValueError(f"latent_frames is {self.latent_frames}; it must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """Begin nothing until it is resumed; what is remembered rests in host memory, and others have its room."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resume:
    """Go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Be made for another speed of playback.

    Args:
        fps: Frames per second; None lets it have what others leave, in turn.
    """

    fps: float | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"fps is {self.fps}; it must be greater than 0, or None")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """End with the chunks that have begun, the first one at least; the stream is then complete."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fork:
    """Begin another stream that goes its own way from here; this one goes on too.

    Args:
        request_id: Of the other one.
        prompt: What it shows from its next chunk on; None means what this one shows.
        back_to: Chunk at whose beginning it goes on, by what was said of those before; None means where this one is.
    """

    request_id: RequestId
    prompt: str | None = None
    back_to: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Forked:
    """What came of a fork.

    Args:
        source: The stream that was forked.
        request: Of the other one.
        frame: Its first pixel frame; those before it are the other stream's.
        error: Why there is none.
    """

    source: RequestId
    request: RenderRequest
    frame: int = 0
    error: ReelrayError | None = None


Order: TypeAlias = Say | Extend | Pause | Resume | Pace | Stop


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How a stream stands once an order is taken in.

    Args:
        request_id: Which.
        frame: First pixel frame that the order can change: of the chunk from which a prompt holds, else of the first
            chunk that has not begun.
        prompt: The first prompt, as the request has it by now.
        changes: Those that follow.
        frames: Pixel frames of the whole video by now.
        paused: Whether it waits to be resumed.
        finished: Whether nothing is left to be done.
    """

    request_id: RequestId
    frame: int
    prompt: str
    changes: tuple[PromptChange, ...]
    frames: int
    paused: bool = False
    finished: bool = False
