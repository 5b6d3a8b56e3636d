"""`reelray render`: a prompt becomes a video file."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from reelray.cluster.cli.session import session_of
from reelray.cluster.video_format import VideoFormat

RENDER_EPILOG = """\b
Examples:
  reelray render "a red circle moves left on a blue background" -o clip.mp4
  reelray render "a green star grows" --seconds 2 --seed 7 -o star.gif
  reelray render "a cat surfs" --model ./Wan2.1-T2V-1.3B-Diffusers --size 832x480 --steps 30
  reelray render "the boat drifts away" --model ./wan-i2v --image boat.jpg -o boat.webm
  reelray render "a yellow square falls" --format png-dir -o frames/ --json | jq .seed
"""


def render(  # noqa: PLR0917  Typer calls it by name
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the video shows.", show_default=False)],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where the video goes: .mp4, .webm, .gif, .npy, or a folder ending in /. "
            "Default: a name made of the prompt and the seed, in this folder.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME|DIR", help="A model's name or its folder. Default: sprites."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Length; rounded up to what the model can make.")
    ] = None,
    frames: Annotated[int | None, typer.Option(metavar="N", help="Length in frames (4n+1 for Wan).")] = None,
    size: Annotated[str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Size in pixels.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Same seed, same video. Default: random.")] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Denoise steps.")] = None,
    guidance: Annotated[
        float | None, typer.Option(metavar="W", help="How strictly the prompt is followed; 1 switches guidance off.")
    ] = None,
    negative: Annotated[str | None, typer.Option(metavar="TEXT", help="What to avoid.")] = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="First frame, for image-to-video models.")] = None,
    fps: Annotated[float | None, typer.Option(metavar="N", help="Frames per second of the video.")] = None,
    video_format: Annotated[
        VideoFormat | None,
        typer.Option("--format", help="Default: by the ending of the output's name. raw is a NumPy .npy file."),
    ] = None,
    no_clobber: Annotated[bool, typer.Option("--no-clobber", "-n", help="Refuse to replace an existing file.")] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where the model runs. Default: auto.")
    ] = None,
    engine: Annotated[
        Literal["ray", "local"] | None,
        typer.Option(help="In an embedded Ray cluster or in this process. Default: ray."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show stack traces of errors.")] = False,
) -> None:
    """Make a video from a prompt.

    What is not given comes from the model. The file appears under its name when it is complete; an existing file is
    replaced then, and left as it is if the render fails. Progress goes to standard error.
    """
    session = session_of(context)
    session.set_debug(wanted=debug)
    from reelray.cluster.render import RenderOptions  # noqa: PLC0415  `--help` needs none of this
    from reelray.cluster.render_file import FileOptions, render_file  # noqa: PLC0415

    render_file(
        RenderOptions(
            prompt=prompt,
            seconds=seconds,
            frames=frames,
            size=size,
            seed=seed,
            steps=steps,
            guidance=guidance,
            negative=negative,
            image=image,
            fps=fps,
        ),
        FileOptions(
            output=output,
            video_format=video_format,
            replace=not no_clobber,
            model=model,
            device=device,
            engine=engine,
            json=json,
            quiet=quiet,
        ),
        session.services,
    )
