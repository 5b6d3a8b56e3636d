"""`reelray stream`: a long video, chunk by chunk, by one prompt after the other."""

from itertools import islice
from typing import Any

import typer
from typer.core import TyperCommand

from reelray.cluster.cli import render_options as take
from reelray.cluster.cli.session import session_of

# Typer keeps a paragraph's lines apart only after \b.
STREAM_EPILOG = """\b
Examples:
  reelray stream "a red circle moves left" -m longlive-1.3b --seconds 60 -o long.mp4
  reelray stream "a cat sleeps" -m MODEL --at 10s "the cat wakes up" --at 20s "it runs away"
  reelray stream "rain on a window" -m MODEL --seconds 120 --gpus 4 --json
  reelray stream "a busy street" -m infinity-rope-1.3b --at 8s,cut "an empty beach at dawn"
"""


class StreamCommand(TyperCommand):
    """Takes two words for each `--at`, which Typer has no type for: they are one option, its words a line each."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click's `Command.parse_args`."""
        end = args.index("--") if "--" in args else len(args)
        split = (word.split("=", 1) if word.startswith("--at=") else (word,) for word in args[:end])
        words = iter([part for parts in split for part in parts])
        joined: list[str] = []
        for word in words:
            joined.append(word)
            if word == "--at":
                joined += ["\n".join(pair)] if len(pair := [*islice(words, 2)]) == 2 else pair
        return super().parse_args(ctx, [*joined, *args[end:]])


def stream(
    context: typer.Context,
    prompt: take.Prompt,
    *,
    at: take.Changes = None,
    output: take.Output = None,
    model: take.Model = None,
    seconds: take.Seconds = None,
    frames: take.FrameCount = None,
    size: take.Size = None,
    seed: take.Seed = None,
    fps: take.Fps = None,
    video_format: take.Format = None,
    no_clobber: take.NoClobber = False,
    device: take.Device = None,
    engine: take.EngineChoice = None,
    gpus: take.Gpus = None,
    layout: take.LayoutText = None,
    decode_ranks: take.DecodeRanks = None,
    weights: take.Weights = None,
    encoder: take.EncoderPlace = None,
    json: take.JsonSummary = False,
    quiet: take.Quiet = False,
    debug: take.Debug = False,
) -> None:
    """Make a long video by one prompt after the other.

    For models that make their video chunk by chunk and remember what was. A prompt of --at holds from the first chunk
    that begins at its time or later; what the change does to memory is the model's recipe. 60 seconds, if nothing else
    is said. Memory does not grow with the video's length; only its latents are kept, to build lost memory anew.
    """
    session = session_of(context)
    session.set_debug(wanted=debug)
    from reelray.cluster.render import RenderOptions  # noqa: PLC0415  `--help` needs none of this
    from reelray.cluster.render_file import FileOptions, render_file  # noqa: PLC0415
    from reelray.cluster.render_plan import Place  # noqa: PLC0415

    if seconds is None and frames is None:
        seconds = 60.0
    changes = [(time, text) for time, _, text in (change.partition("\n") for change in at or ())]
    wish = RenderOptions(
        prompt=prompt, at=changes or None, seconds=seconds, frames=frames, size=size, seed=seed, fps=fps, stream=True
    )
    place = Place(
        model=model, device=device, engine=engine, gpus=gpus, layout=layout, decode_ranks=decode_ranks,
        weights=weights, encoder=encoder,
    )  # fmt: skip
    way = FileOptions(
        output=output, video_format=video_format, replace=not no_clobber, place=place, json=json, quiet=quiet
    )
    render_file(wish, way, session.services)
