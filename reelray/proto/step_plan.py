"""One engine step, small enough to send to every rank over a control channel, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from reelray.proto.errors import ReelrayError
from reelray.proto.events import Frames, Progress, Stage
from reelray.proto.request import RenderRequest, RequestId


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowStep:
    """Move one window by one denoise step.

    Args:
        request_id: Whose window.
        chunk: Index of the chunk.
        first_latent_frame: Index of the window's first latent frame in the video.
        latent_frames: Latent frames in the window.
        step: Index in the chunk's step list.
        last: True when the chunk is clean afterwards.
    """

    request_id: RequestId
    chunk: int
    first_latent_frame: int
    latent_frames: int
    step: int
    last: bool


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
    """

    request_id: RequestId
    first_latent_frame: int
    latent_frames: int
    last: bool
    silent: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Admit:
    """Take in a request.

    Args:
        request: The request.
        resume: What the ranks wrote of it at its last commit, by part; None means from the beginning.
    """

    request: RenderRequest
    resume: Mapping[str, bytes] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPlan:
    """What every rank does next, in this order: releases, admits, windows, decodes, commits.

    Args:
        sequence: Grows by one per plan; a gap is an error.
        generation: Generation of the gang; a plan of another generation is refused.
        releases: Requests to forget (finished, cancelled or failed); their memory is freed.
        admits: Requests to take in: text is encoded and noise is drawn from the request alone.
        windows: Windows that share this step's forward.
        decodes: Latents to decode.
        commits: Requests whose state is to be written into the report, as it stands after the rest of the plan.
    """

    sequence: int
    generation: int
    releases: tuple[RequestId, ...] = ()
    admits: tuple[Admit, ...] = ()
    windows: tuple[WindowStep, ...] = ()
    decodes: tuple[DecodeStep, ...] = ()
    commits: tuple[RequestId, ...] = ()


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
        frames: Decoded frames, in the order of the plan's decodes.
        costs: Time spent, per request and stage.
        failures: Requests that failed in this step; whatever else the plan said of them was skipped.
        commits: States that the plan asked for.
        peak_bytes: Peak memory of the rank so far (device memory on a GPU, resident memory elsewhere).
    """

    sequence: int
    generation: int
    frames: tuple[Frames, ...] = ()
    costs: tuple[StageCost, ...] = ()
    failures: tuple[RequestFailure, ...] = ()
    commits: tuple[Commit, ...] = ()
    peak_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOutcome:
    """What a reported step means to the clients whose requests nobody cancelled meanwhile.

    Args:
        progress: Stages that moved, in plan order.
        finished: Requests that are complete.
        failed: Requests that ended by an error of this step.
    """

    progress: tuple[Progress, ...] = ()
    finished: tuple[RequestId, ...] = ()
    failed: tuple[RequestId, ...] = ()
