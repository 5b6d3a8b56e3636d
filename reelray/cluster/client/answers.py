"""What a server says of a video, as the words of this project."""

from contextlib import suppress
from fractions import Fraction

from reelray.cluster.video_facts import VideoFacts
from reelray.cluster.wire import FROM_WIRE
from reelray.proto.decoder import Decoder
from reelray.proto.errors import EngineError, InputError
from reelray.proto.events import Progress
from reelray.proto.layout import Layout
from reelray.proto.request import PromptChange, RenderSummary, RequestId
from reelray.proto.residency import Blocks, Encoder, Residency
from reelray.proto.sparsity import SparsityPolicy, SparsityReport, SparsityUse
from reelray.proto.sparsity_text import parse_sparsity
from reelray.proto.v1 import video_spec_pb2 as wire


def read_plan(plan: wire.VideoPlan) -> VideoFacts:
    """What the server is going to make.

    Raises:
        EngineError: It did not say.
    """
    if not plan.size.width * plan.size.height * plan.fps.denominator:
        raise EngineError("the server did not say what it makes; is it another version?")
    return VideoFacts(
        model=plan.model,
        prompt=plan.prompt,
        negative_prompt=plan.negative_prompt,
        width=plan.size.width,
        height=plan.size.height,
        frames=plan.frames,
        fps=Fraction(plan.fps.numerator, plan.fps.denominator),
        seed=plan.seed,
        steps=plan.steps,
        guidance=plan.guidance,
        decoder=Decoder.TAEHV_STREAM if plan.decoder == wire.DECODER_PREVIEW else Decoder.WAN_EXACT_STREAM,
        changes=tuple(
            PromptChange(latent_frame=later.latent_frame, prompt=later.prompt, cut=later.cut)
            for later in plan.later_prompts
        ),
        sparsity=_read_sparsity(plan),
    )


def read_progress(progress: wire.StageProgress, request_id: RequestId) -> Progress | None:
    """A stage that moved on; None for one that only newer servers know."""
    if progress.stage not in FROM_WIRE:
        return None
    stage = FROM_WIRE[progress.stage]
    return Progress(request_id=request_id, stage=stage, done=progress.done, total=progress.total)


def read_summary(done: wire.VideoSummary, plan: wire.VideoPlan, request_id: RequestId) -> RenderSummary:
    """What it took."""
    return RenderSummary(
        request_id=request_id,
        model=plan.model,
        model_digest=plan.model_digest,
        frames=done.frames,
        width=plan.size.width,
        height=plan.size.height,
        seed=plan.seed,
        steps=plan.steps,
        forwards=done.forwards,
        device=done.device,
        dtype=done.dtype,
        stage_s=dict(done.stage_seconds),
        peak_bytes=done.peak_bytes,
        layout=_read_layout(done.layout),
        residency=_read_residency(done),
        decode_ranks=done.decode_ranks,
        sparsity=_read_use(done, plan),
    )


def _read_sparsity(plan: wire.VideoPlan) -> SparsityPolicy | None:
    """The policy, or none where the server is newer and knows others."""
    with suppress(InputError):
        return parse_sparsity(plan.sparsity) if plan.sparsity else None
    return None


def _read_use(done: wire.VideoSummary, plan: wire.VideoPlan) -> SparsityReport | None:
    policy = _read_sparsity(plan)
    if policy is None or not done.HasField("sparsity"):
        return None
    said = done.sparsity
    attended = said.density * (said.calls - said.dense)
    use = SparsityUse(calls=said.calls, dense=said.dense, attended=attended, refusal=said.refusal)
    return SparsityReport(policy=policy, use=use)


def _read_layout(text: str) -> Layout:
    """The layout, or none where the server is newer and knows others."""
    with suppress(InputError):
        return Layout.parse(text)
    return Layout()


def _read_residency(done: wire.VideoSummary) -> Residency:
    with suppress(ValueError):
        return Residency(blocks=Blocks(done.weights), encoder=Encoder(done.encoder))
    return Residency()
