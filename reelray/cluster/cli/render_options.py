"""The options of `reelray render` as Typer types."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from reelray.cluster.video_format import VideoFormat

Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What the video shows.", show_default=False)]
FirstPrompt = Annotated[
    str | None, typer.Argument(metavar="PROMPT", help="What the video shows at first.", show_default=False)
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Where the video goes: .mp4, .webm, .gif, .npy, a folder ending in /, a pipe, or - for standard output. "
        "Default: a name made of the prompt and the seed, in this folder.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="NAME|DIR", help="A model's name or its folder. Default: sprites."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--at",
        metavar="TIME PROMPT",
        help="Another prompt from this time on, such as 6s, or another scene, such as 6s,cut; may be given again.",
    ),
]
Interactive = Annotated[
    bool, typer.Option("--interactive", "-i", help="Take prompts and orders from standard input while it runs.")
]
From = Annotated[
    str | None, typer.Option("--from", metavar="FILE", help="Go on from a snapshot; a PROMPT holds from there.")
]
Seconds = Annotated[
    str | None,
    typer.Option(
        metavar="S",
        help="Length, such as 60 or 1:30; rounded up. What is longer than a clip may be another model's (`longer`).",
    ),
]
FrameCount = Annotated[int | None, typer.Option(metavar="N", help="Length in frames (4n+1 for Wan).")]
Size = Annotated[str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Size in pixels.")]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Same seed, same video. Default: random.")]
Steps = Annotated[int | None, typer.Option(metavar="N", help="Denoise steps.")]
ChunkSteps = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", help="Denoise steps of a chunk; few-step models have a fixed list."),
]
Guidance = Annotated[
    float | None, typer.Option(metavar="W", help="How strictly the prompt is followed; 1 switches guidance off.")
]
Negative = Annotated[str | None, typer.Option(metavar="TEXT", help="What to avoid.")]
StreamNegative = Annotated[
    str | None, typer.Option("--negative", metavar="TEXT", help="What to avoid, for models that run with guidance.")
]
Image = Annotated[str | None, typer.Option(metavar="FILE", help="First frame, for image-to-video models.")]
ImageThere = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="First frame, for image-to-video models; also asset:ID of an upload, or an address for the server.",
    ),
]
Fps = Annotated[float | None, typer.Option(metavar="N", help="Frames per second of the video.")]
Format = Annotated[
    VideoFormat | None,
    typer.Option(
        "--format",
        help="Default: by the output's ending; mp4 into a pipe. raw is a NumPy .npy file; rgb24 in a pipe.",
    ),
]
NoClobber = Annotated[bool, typer.Option("--no-clobber", "-n", help="Refuse to replace an existing file.")]
Device = Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where the model runs. Default: auto.")]
EngineChoice = Annotated[
    Literal["ray", "local"] | None,
    typer.Option(help="In an embedded Ray cluster or in this process. Default: ray."),
]
Gpus = Annotated[
    int | None,
    typer.Option(metavar="N", help="How many GPUs share the video; processes with --device cpu. Default: 1."),
]
LayoutText = Annotated[
    str | None,
    typer.Option(
        "--layout", metavar="AXIS=N,...", help="How they share it: cfg, pipe, ring, ulysses. Default: by the plan."
    ),
]
Patches = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Approximate, for a layout with pipe: cut a clip into so many patches that need not wait for each other. "
        "Default: exact.",
    ),
]
ExactSteps = Annotated[
    int | None,
    typer.Option(metavar="N", help="With --patches: how many of the first steps are exact. Default: 4."),
]
DecodeRanks = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto",
        help="How many of the GPUs do nothing but decode, beside the others; 0 lets all do both. Default: by the plan.",
    ),
]
DecoderChoice = Annotated[
    Literal["full", "preview"] | None,
    typer.Option("--decoder", help="Exact pictures, or approximate ones by a tiny decoder, quickly. Default: full."),
]
PreviewDecoder = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="The tiny decoder of previews, such as taew2_1.pth. Default: the file in MODEL/taehv/."
    ),
]
Sparsity = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD,NAME=VALUE",
        help="Approximate, for whole clips: what of self-attention may be left out, such as sub_block,density=0.35 "
        "(docs/sparsity.md). Default: nothing.",
    ),
]
Weights = Annotated[
    Literal["auto", "resident", "sharded", "offloaded"] | None,
    typer.Option(help="Transformer blocks: on each GPU, in shares, or in host memory. Default: by the plan."),
]
EncoderPlace = Annotated[
    Literal["auto", "resident", "released"] | None,
    typer.Option(help="Text encoder: on the GPU, or there for the prompt only. Default: by the plan."),
]
JsonSummary = Annotated[
    bool, typer.Option("--json", help="Print a summary as JSON on standard output; on standard error with -o -.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show stack traces of errors.")]
Server = Annotated[
    str | None,
    typer.Option(metavar="HOST[:PORT]", help="Let a server make it (reelray serve) instead of this machine."),
]
Token = Annotated[
    str | None,
    typer.Option(metavar="TOKEN", envvar="REELRAY_TOKEN", help="What the server wants to hear from its callers."),
]
ServerCertificate = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca", metavar="FILE", help="Certificate (PEM) by which the server is known; then TLS is spoken."
    ),
]
