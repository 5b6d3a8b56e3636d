"""What is said of a render: before it, after it, in JSON, and inside the file."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import reelray
from reelray.cluster.output_choice import STANDARD_OUTPUT_NAMES
from reelray.cluster.video_facts import VideoFacts
from reelray.cluster.video_format import STANDARD_OUTPUT, VideoFormat
from reelray.proto.placement import Placement
from reelray.proto.request import RenderSummary
from reelray.proto.residency import Residency
from reelray.proto.sparsity import SparsityReport
from reelray.proto.sparsity_text import write_sparsity


def describe_job(video: VideoFacts) -> str:
    """One line that says what will be rendered, seed included."""
    return (
        f"{video.model}: {video.width}x{video.height}, {video.frames} frames "
        f"({video.seconds:.2f} s at {float(video.fps):g} fps), {video.steps} steps, seed {video.seed}{_preview(video)}"
    )


def describe_result(
    video: VideoFacts, summary: RenderSummary, output: str, *, seconds: Mapping[str, float], replaced: bool
) -> str:
    """One line that says what was written and how long it took."""
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items() if stage != "total")
    verb = "replaced" if replaced else "wrote"
    output = "standard output" if output in STANDARD_OUTPUT_NAMES else output
    what = f"{summary.frames} frames, seed {video.seed}, {_describe_place(summary)}{_preview(video)}"
    return f"{verb} {output}: {what}, {seconds['total']:.1f} s ({stages})"


def file_metadata(video: VideoFacts, digest: str, *, first_frame: int = 0) -> dict[str, object]:
    """Facts that travel in the file: enough to render it again.

    Args:
        video: The whole of it.
        digest: Of the model.
        first_frame: Where the file begins that goes on from a snapshot.
    """
    patching = video.patching
    approximate = {} if patching is None else {"approximate": True, **asdict(patching)}
    if video.sparsity is not None:
        approximate |= {"sparsity": write_sparsity(video.sparsity)}  # what was allowed; nobody knows yet what is used
    if video.decoder.is_preview:
        approximate |= {"approximate": True, "decoder": video.decoder.value}
    later = [
        {"latent_frame": change.latent_frame, "prompt": change.prompt} | ({"cut": True} if change.cut else {})
        for change in video.changes
    ]
    return {
        "prompt": video.prompt,
        "negative_prompt": video.negative_prompt,
        "seed": video.seed,
        "model": video.model,
        "model_digest": digest,
        "width": video.width,
        "height": video.height,
        "frames": video.frames - first_frame,
        "fps": float(video.fps),
        "steps": video.steps,
        "guidance": video.guidance,
        "reelray": reelray.__version__,
        **({"later_prompts": later} if later else {}),
        **({"first_frame": first_frame} if first_frame else {}),
        **approximate,
    }


def summary_json(
    video: VideoFacts,
    summary: RenderSummary,
    output: str,
    video_format: VideoFormat,
    *,
    seconds: Mapping[str, float],
) -> dict[str, object]:
    """What `--json` prints; `seconds.start` is the time until the engine was ready, `load` included."""
    return {
        "file": STANDARD_OUTPUT if output in STANDARD_OUTPUT_NAMES else str(Path(output).absolute()),
        "format": video_format.value,
        "approximate": False,
        "decoder": video.decoder.value,
        **file_metadata(video, summary.model_digest),
        **_sparsity_json(summary.sparsity),
        "frames": summary.frames,
        "forwards": summary.forwards,
        "device": summary.device,
        "dtype": summary.dtype,
        "layout": str(summary.layout),
        "ranks": summary.layout.ranks + summary.decode_ranks,
        "decode_ranks": summary.decode_ranks,
        "weights": str(summary.residency.blocks),
        "encoder": str(summary.residency.encoder),
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "peak_bytes": summary.peak_bytes,
    }


def _sparsity_json(report: SparsityReport | None) -> dict[str, object]:
    """What was left out of self-attention; nothing where nothing was to be."""
    if report is None:
        return {}
    use = report.use
    return {
        **({} if use.density is None else {"approximate": True}),
        "attention": {
            "calls": use.calls,
            "dense": use.dense,
            "density": use.density and round(use.density, 4),
            "refusal": use.refusal or None,
        },
    }


def describe_sparsity(report: SparsityReport) -> str:
    """A few words on what was left out of self-attention."""
    use = report.use
    if use.refusal:
        return f"attention is dense: {use.refusal}"
    if use.density is None:
        return "attention was dense in every step"
    share = (use.calls - use.dense) / use.calls
    return f"approximate, {use.density:.0%} of the keys attended in {share:.0%} of self-attention"


def _describe_place(summary: RenderSummary) -> str:
    placement = Placement(layout=summary.layout, decode_ranks=summary.decode_ranks)
    told = [] if placement.ranks == 1 else [str(placement)]
    if summary.residency != Residency():
        told.append(f"weights {summary.residency}")
    if summary.patching is not None:
        told.append(f"approximate, {summary.patching.patches} patches")
    if summary.sparsity is not None:
        told.append(describe_sparsity(summary.sparsity))
    return f"{summary.device} ({', '.join(told)})" if told else summary.device


def _preview(video: VideoFacts) -> str:
    return ", preview pictures (approximate)" if video.decoder.is_preview else ""
