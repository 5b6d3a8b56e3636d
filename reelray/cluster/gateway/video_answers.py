"""From a request and its events to what goes over the wire."""

import time
from fractions import Fraction

from google.protobuf.timestamp_pb2 import Timestamp

from reelray.cluster.coordinator.messages import Waits
from reelray.cluster.wire import TO_WIRE
from reelray.proto.events import Progress
from reelray.proto.request import RenderRequest, RenderSummary
from reelray.proto.sparsity import SparsityUse
from reelray.proto.sparsity_text import write_sparsity
from reelray.proto.v1 import video_spec_pb2 as wire
from reelray.proto.v1 import videos_pb2

LONGEST_S = 1e9
"""Starts later than that are as good as never."""


def planned(request: RenderRequest, model: str, digest: str, fps: Fraction) -> wire.VideoPlan:
    """Say what will be made.

    Args:
        request: What goes to the engine.
        model: Its name.
        digest: Of its files.
        fps: Of the finished video.
    """
    return wire.VideoPlan(
        model=model,
        model_digest=digest,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        size=wire.Size(width=request.width, height=request.height),
        frames=request.frames,
        fps=wire.Rational(numerator=fps.numerator, denominator=fps.denominator),
        seed=request.seed,
        steps=request.recipe.schedule.length,
        guidance=request.recipe.guidance.scale,
        later_prompts=[
            wire.LaterPrompt(latent_frame=change.latent_frame, prompt=change.prompt, cut=change.cut)
            for change in request.changes
        ],
        decoder=wire.DECODER_PREVIEW if request.recipe.decoder.is_preview else wire.DECODER_FULL,
        sparsity="" if request.sparsity is None else write_sparsity(request.sparsity),
    )


def moved_on(progress: Progress) -> wire.StageProgress:
    """Say how far it is."""
    return wire.StageProgress(stage=TO_WIRE[progress.stage], done=progress.done, total=progress.total)


def queued(waits: Waits) -> videos_pb2.GenerateEvent:
    """Say how it stands while it waits."""
    return videos_pb2.GenerateEvent(queued=standing(waits))


def standing(waits: Waits) -> wire.Queued:
    """Say where something stands in its line."""
    if waits.start_s is None:
        return wire.Queued(position=waits.position)
    start = Timestamp()
    start.FromMicroseconds(round((time.time() + min(waits.start_s, LONGEST_S)) * 1e6))
    return wire.Queued(position=waits.position, predicted_start=start)


def done(summary: RenderSummary) -> wire.VideoSummary:
    """Say what it took."""
    return wire.VideoSummary(
        frames=summary.frames,
        forwards=summary.forwards,
        device=summary.device,
        dtype=summary.dtype,
        layout=str(summary.layout),
        ranks=summary.layout.ranks + summary.decode_ranks,
        stage_seconds=summary.stage_s,
        peak_bytes=summary.peak_bytes,
        decode_ranks=summary.decode_ranks,
        weights=summary.residency.blocks,
        encoder=summary.residency.encoder,
        sparsity=None if summary.sparsity is None else sparsity_use(summary.sparsity.use),
    )


def sparsity_use(use: SparsityUse) -> wire.SparsityUse:
    """Say what was left out of self-attention."""
    return wire.SparsityUse(calls=use.calls, dense=use.dense, density=use.density or 0.0, refusal=use.refusal)
