"""`reelray render`: a prompt becomes a video file."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from reelray.cluster.cli import render_options as take
from reelray.cluster.cli.session import Session, session_of

if TYPE_CHECKING:
    from reelray.cluster.render import RenderOptions
    from reelray.cluster.render_file import FileOptions

RENDER_EPILOG = """\b
Examples:
  reelray render "a red circle moves left on a blue background" -o clip.mp4
  reelray render "a green star grows" --seconds 2 --seed 7 -o star.gif
  reelray render "a green star spins on a gray background" --seconds 60 -o minute.mp4
  reelray render "a cat surfs" --model ./Wan2.1-T2V-1.3B-Diffusers --size 832x480 --steps 30
  reelray render "the boat drifts away" --model ./wan-i2v --image boat.jpg -o boat.webm
  reelray render "a cat surfs" --model ./Wan2.1-T2V-1.3B-Diffusers --gpus 4 -o surf.mp4
  reelray render "a green star spins on a gray background" -o - | mpv -
  reelray render "a green star grows" --server localhost:50051 -o star.mp4
  reelray render "a yellow square falls" --format png-dir -o frames/ --json | jq .seed
"""


class ServerOptions(NamedTuple):
    """What is said of a server."""

    address: str
    token: str | None
    certificate: Path | None


def render(
    context: typer.Context,
    prompt: take.Prompt,
    *,
    output: take.Output = None,
    model: take.Model = None,
    seconds: take.Seconds = None,
    frames: take.FrameCount = None,
    size: take.Size = None,
    seed: take.Seed = None,
    steps: take.Steps = None,
    guidance: take.Guidance = None,
    negative: take.Negative = None,
    image: take.Image = None,
    fps: take.Fps = None,
    video_format: take.Format = None,
    no_clobber: take.NoClobber = False,
    device: take.Device = None,
    engine: take.EngineChoice = None,
    gpus: take.Gpus = None,
    layout: take.LayoutText = None,
    decode_ranks: take.DecodeRanks = None,
    patches: take.Patches = None,
    exact_steps: take.ExactSteps = None,
    sparsity: take.Sparsity = None,
    weights: take.Weights = None,
    encoder: take.EncoderPlace = None,
    decoder: take.DecoderChoice = None,
    preview_decoder: take.PreviewDecoder = None,
    server: take.Server = None,
    token: take.Token = None,
    tls_ca: take.ServerCertificate = None,
    json: take.JsonSummary = False,
    quiet: take.Quiet = False,
    debug: take.Debug = False,
) -> None:
    """Make a video from a prompt.

    What is not given comes from the model. The file appears under its name when it is complete; an existing file is
    replaced then, and left as it is if the render fails. Progress goes to standard error.
    """
    session = session_of(context)
    session.set_debug(wanted=debug)
    from reelray.cluster.render import RenderOptions  # noqa: PLC0415  `--help` needs none of this
    from reelray.cluster.render_file import FileOptions  # noqa: PLC0415
    from reelray.cluster.render_plan import Place  # noqa: PLC0415

    wish = RenderOptions(
        prompt=prompt, seconds=seconds, frames=frames, size=size, seed=seed, steps=steps, guidance=guidance,
        negative=negative, image=image, fps=fps, decoder=decoder, sparsity=sparsity,
    )  # fmt: skip
    place = Place(
        model=model, device=device, engine=engine, gpus=gpus, layout=layout, decode_ranks=decode_ranks,
        patches=patches, exact_steps=exact_steps, weights=weights, encoder=encoder, preview_decoder=preview_decoder,
    )  # fmt: skip
    way = FileOptions(
        output=output, video_format=video_format, replace=not no_clobber, place=place, json=json, quiet=quiet
    )
    _run(wish, way, session, None if server is None else ServerOptions(server, token, tls_ca))


def _run(wish: "RenderOptions", way: "FileOptions", session: Session, server: ServerOptions | None) -> None:
    """Here or there."""
    if server is None:
        from reelray.cluster.render_file import render_file  # noqa: PLC0415

        render_file(wish, way, session.services)
        return
    from reelray.cluster.serve_extra import needs_serve_extra  # noqa: PLC0415

    with needs_serve_extra():
        from reelray.cluster.client.connection import ServerAddress  # noqa: PLC0415
        from reelray.cluster.client.render_there import render_there  # noqa: PLC0415

    render_there(wish, way, ServerAddress(address=server.address, token=server.token, certificate=server.certificate))
