"""One engine step, small enough to send to every rank over a control channel, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from reelray.proto.errors import ReelrayError
from reelray.proto.events import Frames, Progress, Stage
from reelray.proto.layout import Layout, Place
from reelray.proto.request import PromptChange, RenderRequest, RequestId
from reelray.proto.session import Forked
from reelray.proto.snapshot import Snapshot, SnapshotKind
from reelray.proto.sparsity import SparsityUse


class Crew(StrEnum):
    """Ranks that follow plans of their own, where some do nothing but decode."""

    DENOISE = "denoise"
    DECODE = "decode"


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """Bring what the ranks hold of a request to another lane: latents, solver history, decoder state.

    Args:
        request_id: Whose state.
        source: Where it lies.
        target: Where the steps that follow find it; a lane of the plan's layout.
    """

    request_id: RequestId
    source: Place
    target: Place


class Part(StrEnum):
    """What a chunk does in a window that holds several."""

    MOVES = "moves"  # by one denoise step
    WAITS = "waits"  # its first step comes later; it is noise
    RESTS = "rests"  # it is clean
    GIVEN = "given"  # it was clean before the round began, and is noised a little anew


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """One chunk of a window.

    Args:
        chunk: Index of the chunk.
        latent_frames: Its latent frames.
        part: What it does.
        step: Index in its step list, or, of a given one, which forward of the round it is.
        last: True when it is clean afterwards, and was not before.
    """

    chunk: int
    latent_frames: int
    part: Part = Part.MOVES
    step: int = 0
    last: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowStep:
    """Move one window by one denoise step.

    Where chunks in flight share a window, `chunk` and `step` are those of the first one that is not clean.

    Args:
        request_id: Whose window.
        chunk: Index of the chunk.
        first_latent_frame: Index of the window's first latent frame in the video.
        latent_frames: Latent frames in the window.
        step: Index in the chunk's step list.
        last: True when the chunk is clean afterwards.
        commits: True when the keys and values of this step's forward are remembered for the chunks that follow.
        prompt: Which of the request's prompts it goes by, 0 first.
        recaches: True when clean frames before the chunk are remembered anew under its prompt: they are the window,
            or, where memory begins anew, as many are.
        level: Which of its memories it attends, where there is one for each noise level, and is remembered in; None
            where there is one for all.
        mix: Weight of each of the request's prompts in the text; none means that `prompt` alone is the text.
        cuts: True in the first chunk of another scene.
        lane: Lane of the plan's layout that does it.
        slots: What it is made of, in the order of time, where chunks share it.
    """

    request_id: RequestId
    chunk: int
    first_latent_frame: int
    latent_frames: int
    step: int
    last: bool
    commits: bool = False
    prompt: int = 0
    recaches: bool = False
    level: int | None = None
    mix: tuple[float, ...] = ()
    cuts: bool = False
    lane: int = 0
    slots: tuple[Slot, ...] = ()

    @property
    def chunks(self) -> tuple[Slot, ...]:
        """What it is made of: its slots, or its one chunk."""
        return self.slots or (Slot(chunk=self.chunk, latent_frames=self.latent_frames, step=self.step, last=self.last),)

    @property
    def is_clean_pass(self) -> bool:
        """Whether the chunk was clean before: its forward is remembered, and what it predicts is not used."""
        return self.commits and not self.last and not self.recaches and self.level is None


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """Bring the clean latents of a chunk from the ranks that denoise to those that only decode.

    Both crews are told in plans that are issued together, so that neither waits for the other for long.

    Args:
        request_id: Whose latents.
        first_latent_frame: Index of the chunk's first latent frame in the video.
        latent_frames: Latent frames in the chunk.
    """

    request_id: RequestId
    first_latent_frame: int
    latent_frames: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeStep:
    """Decode clean latent frames and send them out.

    Args:
        request_id: Whose latents.
        first_latent_frame: First latent frame to decode; the request's decoder state stands right before it.
        latent_frames: How many.
        last: True when the video is complete afterwards.
        silent: True when the client has these frames already: a gang that was lost had sent them, and the new one
            decodes them only to bring the decoder's state to where it was.
        lane: Lane of the plan's layout that does it.
    """

    request_id: RequestId
    first_latent_frame: int
    latent_frames: int
    last: bool
    silent: bool = False
    lane: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotStep:
    """Write all that is known of a request into the report, whatever was written down before.

    Args:
        request_id: Which.
        kind: How what is remembered is written.
    """

    request_id: RequestId
    kind: SnapshotKind


@dataclass(frozen=True, kw_only=True, slots=True)
class ForkStep:
    """Hold a request a second time, as it stands after the rest of the plan; what is remembered is shared.

    Args:
        source: The request.
        request: What it is called from there on, where it goes its own way.
        rests: Whether the second one begins in host memory.
    """

    source: RequestId
    request: RenderRequest
    rests: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Admit:
    """Take in a request. Every rank encodes its text, so that a move need not bring it; its state lies on one lane.

    Args:
        request: The request.
        resume: What the ranks wrote of it at its last commit, by part; None means from the beginning.
        lane: Lane of the plan's layout where it lies.
        seats: How many windows of requests like it may share a forward; what they remember must have places beside
            each other.
        like: A request that the ranks hold at rest, as whose fork this one begins.
    """

    request: RenderRequest
    resume: Mapping[str, bytes] | None = None
    lane: int = 0
    seats: int = 1
    like: RequestId | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Amend:
    """Take another wording of a request that is held. Every rank encodes what is new in it, as for `Admit`.

    Args:
        request_id: Which.
        prompt: See `RenderRequest`.
        changes: All of them; prompts of chunks that have begun are where they were.
        frames: Pixel frames in all.
    """

    request_id: RequestId
    prompt: str
    changes: tuple[PromptChange, ...]
    frames: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPlan:
    """What the ranks do next, in the order of the fields: they forget, move, take in, exchange, compute and write down.

    Lanes work at the same time, each on its own windows and decodes; the step lasts as long as the slowest. Crews have
    plans of their own, which follow each other whatever the other crew does.

    Args:
        sequence: Grows by one per plan of a crew; a gap is an error.
        generation: Generation of the gang; a plan of another generation is refused.
        crew: Whose plan it is; None means all ranks.
        joint: Whether the other crew has a plan that belongs to this one: their ranks meet in collectives.
        layout: How the ranks are grouped in this step; None means as they were started.
        releases: Requests to forget (finished, cancelled or failed); their memory is freed.
        parks: Requests that let others have their room until they come back: what they remember goes to host memory.
        fetches: Requests that come back from there; copies run beside the work of others.
        moves: Requests whose lane is another one from here on.
        admits: Requests to take in: text is encoded and noise is drawn from the request alone.
        amends: Requests whose prompts or length are others from here on.
        joins: Requests whose chunk in work goes to the ranks that only decode, which help with it; in a plan of both.
        deliveries: Clean latents that go from one crew to the other; in a plan of both.
        windows: Windows to move, lane by lane: one on each; or several of different requests, which follow each other
            through the layers, as many as its layout has `pipe` ranks, or, where it has one, share their forwards.
        in_step: Whether those that share forwards go through every layer one by one, with the bits they have alone.
        decodes: Latents to decode, one piece per lane at most, in the order of the lanes.
        commits: Requests whose state is to be written into the report, as it stands after the rest of the plan.
        snapshots: The same for snapshots.
        forks: Requests that go two ways from here.
    """

    sequence: int
    generation: int
    crew: Crew | None = None
    joint: bool = False
    layout: Layout | None = None
    releases: tuple[RequestId, ...] = ()
    parks: tuple[RequestId, ...] = ()
    fetches: tuple[RequestId, ...] = ()
    moves: tuple[Move, ...] = ()
    admits: tuple[Admit, ...] = ()
    amends: tuple[Amend, ...] = ()
    joins: tuple[RequestId, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    windows: tuple[WindowStep, ...] = ()
    in_step: bool = False
    decodes: tuple[DecodeStep, ...] = ()
    commits: tuple[RequestId, ...] = ()
    snapshots: tuple[SnapshotStep, ...] = ()
    forks: tuple[ForkStep, ...] = ()

    def ranks_of(self, request_id: RequestId) -> frozenset[int] | None:
        """Ranks that work on a request in this step; None means all that have the plan."""
        reads = request_id in {admit.request.request_id for admit in self.admits} | self._amended | self._forked
        if self.layout is None or self.crew is not None or reads:
            return None
        moves = [move for move in self.moves if move.request_id == request_id]
        lanes = {window.lane for window in self.windows if window.request_id == request_id}
        lanes |= {decode.lane for decode in self.decodes if decode.request_id == request_id}
        if not lanes and any(step.request_id == request_id for step in self.snapshots):
            return None
        places = [place for move in moves for place in (move.source, move.target)]
        places += [Place(layout=self.layout, lane=lane) for lane in lanes]
        return frozenset(rank for place in places for rank in place.ranks)

    @property
    def touched(self) -> frozenset[RequestId]:
        """Requests with work of their own in this step."""
        moved = {move.request_id for move in self.moves} | {window.request_id for window in self.windows}
        decoded = (
            {decode.request_id for decode in self.decodes} | {*self.joins} | {d.request_id for d in self.deliveries}
        )
        read = self._amended | {admit.request.request_id for admit in self.admits}
        return frozenset(moved | decoded | read | {step.request_id for step in self.snapshots} | self._forked)

    @property
    def _forked(self) -> frozenset[RequestId]:
        return frozenset(name for fork in self.forks for name in (fork.source, fork.request.request_id))

    @property
    def _amended(self) -> frozenset[RequestId]:
        return frozenset(amend.request_id for amend in self.amends)


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """The state of one request, by part: what ranks need to go on with it."""

    request_id: RequestId
    parts: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCost:
    """What one request spent in one stage of one step.

    Args:
        request_id: Who pays.
        stage: Where it was spent.
        seconds: Wall time; a shared forward is split evenly over its windows.
        forwards: Transformer evaluations, both guidance branches counted.
    """

    request_id: RequestId
    stage: Stage
    seconds: float
    forwards: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestFailure:
    """One request could not go on; the others are untouched."""

    request_id: RequestId
    error: ReelrayError


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What a step produced.

    Args:
        sequence: Of the plan it answers.
        generation: Of the plan it answers.
        crew: Of the plan it answers.
        frames: Decoded frames, in the order of the plan's decodes, behind those of earlier plans that came late.
        late: Requests whose piece of this plan is still being decoded: its frames come with a later report, at the
            latest with that of a plan that does more than move a window.
        arrived: Requests whose late piece of an earlier plan is decoded now.
        costs: Time spent, per request and stage; those of different lanes passed at the same time.
        uses: How much of self-attention was left out for a request, by every rank that denoises.
        failures: Requests that failed in this step; whatever else the plan said of them was skipped.
        waiting: Requests for whose memory there is no room at present, among those that came back or were moved: they
            go on resting, and whatever else the plan said of them was skipped.
        refused: Forks that were to begin in host memory and were not made, because there is none to spare.
        commits: States that the plan asked for.
        snapshots: Snapshots that it asked for.
        moved_bytes: Bytes that came from other ranks for the plan's moves.
        peak_bytes: Peak memory of the rank so far (device memory on a GPU, resident memory elsewhere).
    """

    sequence: int
    generation: int
    crew: Crew | None = None
    frames: tuple[Frames, ...] = ()
    late: tuple[RequestId, ...] = ()
    arrived: tuple[RequestId, ...] = ()
    costs: tuple[StageCost, ...] = ()
    uses: tuple[tuple[RequestId, SparsityUse], ...] = ()
    failures: tuple[RequestFailure, ...] = ()
    waiting: tuple[RequestId, ...] = ()
    refused: tuple[RequestId, ...] = ()
    commits: tuple[Commit, ...] = ()
    snapshots: tuple[Commit, ...] = ()
    moved_bytes: int = 0
    peak_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOutcome:
    """What a reported step means to the clients whose requests nobody cancelled meanwhile.

    Args:
        progress: Stages that moved, in plan order.
        finished: Requests that are complete.
        failed: Requests that ended by an error of this step.
        snapshots: Those that are complete; their digest is the engine's.
        forks: What came of forks.
    """

    progress: tuple[Progress, ...] = ()
    finished: tuple[RequestId, ...] = ()
    failed: tuple[RequestId, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    forks: tuple[Forked, ...] = ()
