"""`reelray stream`: a long video, chunk by chunk, by one prompt after the other."""

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from typer.core import TyperCommand

from reelray.cluster.cli import render_options as take
from reelray.cluster.cli.server_options import address_of
from reelray.cluster.cli.session import session_of

if TYPE_CHECKING:
    from reelray.cluster.client.connection import ServerAddress
    from reelray.cluster.render import RenderOptions
    from reelray.cluster.render_file import FileOptions
    from reelray.cluster.services import Services

# Typer keeps a paragraph's lines apart only after \b.
STREAM_EPILOG = """\b
Examples:
  reelray stream "a red circle moves left on a blue background" --seconds 1:30 -o long.mp4
  reelray stream "a red circle moves left on a blue background" --interactive -o - | ffplay -
  reelray stream "a cat sleeps" -m MODEL --at 10s "the cat wakes up" --at 20s "it runs away"
  reelray stream "rain on a window" -m MODEL --seconds 120 --gpus 4 --json
  reelray stream "waves at a pier" -m MODEL --steps 20 --guidance 5 --negative "blurred, text"
  reelray stream "a cat sleeps" -m MODEL --interactive -o cat.mp4
  reelray stream "a cat sleeps" --server gpu-7 --interactive -o - | ffplay -
  reelray stream --from cat.snap "the cat wakes up" -o rest.mp4
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
                pair = [*islice(words, 2)]
                if len(pair) == 2 and pair[1].startswith("--"):
                    raise typer.BadParameter(f"{pair[0]} has no prompt; give both, such as --at 6s 'it rains'", ctx)
                joined += ["\n".join(pair)] if len(pair) == 2 else pair
        return super().parse_args(ctx, [*joined, *args[end:]])


def stream(
    context: typer.Context,
    prompt: take.FirstPrompt = None,
    *,
    at: take.Changes = None,
    interactive: take.Interactive = False,
    snapshot: take.From = None,
    output: take.Output = None,
    model: take.Model = None,
    seconds: take.Seconds = None,
    frames: take.FrameCount = None,
    size: take.Size = None,
    seed: take.Seed = None,
    steps: take.ChunkSteps = None,
    guidance: take.Guidance = None,
    negative: take.StreamNegative = None,
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
    decoder: take.DecoderChoice = None,
    preview_decoder: take.PreviewDecoder = None,
    server: take.Server = None,
    token: take.Token = None,
    tls_ca: take.ServerCertificate = None,
    json: take.JsonSummary = False,
    quiet: take.Quiet = False,
    debug: take.Debug = False,
) -> None:
    """Make a long video by one prompt after the other.

    For models that make their video chunk by chunk and remember what was. A prompt of --at holds from the first chunk
    that begins at its time or later; what the change does to memory is the model's recipe. 60 seconds, if nothing else
    is said, or as much as the model can make. Memory does not grow with the video's length; only its latents are kept,
    to build lost memory anew. With --interactive every line of standard input is the next prompt; /help names the
    orders that may be given there.
    """
    session = session_of(context)
    session.set_debug(wanted=debug)
    from reelray.cluster.render_file import FileOptions  # noqa: PLC0415  `--help` needs none of this
    from reelray.cluster.render_plan import Place  # noqa: PLC0415

    place = Place(
        model=model, device=device, engine=engine, gpus=gpus, layout=layout, decode_ranks=decode_ranks,
        weights=weights, encoder=encoder, preview_decoder=preview_decoder,
    )  # fmt: skip
    way = FileOptions(
        output=output, video_format=video_format, replace=not no_clobber, place=place, json=json, quiet=quiet
    )
    wish = {"at": _split(at), "seconds": seconds, "frames": frames, "size": size, "seed": seed, "fps": fps}
    wish |= {"steps": steps, "guidance": guidance, "negative": negative, "decoder": decoder}
    address = None if server is None else address_of(server, token, tls_ca)
    _run(prompt, wish, way, Source(session.services, address, snapshot, interactive))


class Source(NamedTuple):
    """Where a stream comes from.

    Args:
        services: Of this machine.
        server: What makes it instead.
        snapshot: File that it goes on from.
        interactive: Whether lines of standard input are prompts and orders.
    """

    services: "Services"
    server: "ServerAddress | None"
    snapshot: str | None
    interactive: bool


def _split(at: list[str] | None) -> list[tuple[str, str]] | None:
    return [(time, text) for time, _, text in (change.partition("\n") for change in at)] if at else None


def _run(prompt: str | None, wish: Mapping[str, Any], way: "FileOptions", source: Source) -> None:
    if source.server is not None:
        _there(prompt, wish, way, source)
    elif source.snapshot is None:
        _begin(_read_wish({"prompt": prompt, **wish}), way, source)
    else:
        _go_on(prompt, wish, way, source)


def _begin(wish: "RenderOptions", way: "FileOptions", source: Source) -> None:
    from reelray.cluster.interactive import stream_interactively  # noqa: PLC0415
    from reelray.cluster.render_file import render_file  # noqa: PLC0415

    run = stream_interactively if source.interactive else render_file
    run(wish, way, source.services)


def _there(prompt: str | None, wish: Mapping[str, Any], way: "FileOptions", source: Source) -> None:
    from reelray.cluster.client.stream_there import stream_there  # noqa: PLC0415
    from reelray.proto.errors import InputError  # noqa: PLC0415

    if source.snapshot is not None:
        raise InputError("--from cannot be given with --server; a snapshot is gone on from where its file is")
    assert source.server is not None, "there is somewhere"
    stream_there(_read_wish({"prompt": prompt, **wish}), way, source.server, listens=source.interactive)


def _read_wish(wish: Mapping[str, Any]) -> "RenderOptions":
    from reelray.cluster.render import RenderOptions  # noqa: PLC0415
    from reelray.proto.errors import PromptError  # noqa: PLC0415

    if wish["prompt"] is None:
        raise PromptError(
            'no prompt was given; say what the video shows, such as: reelray stream "a cat sleeps", or go on from a '
            "snapshot (--from FILE)"
        )
    return RenderOptions(**wish, stream=True)


def _go_on(prompt: str | None, wish: Mapping[str, Any], way: "FileOptions", source: Source) -> None:
    from reelray.cluster.interactive import stream_from  # noqa: PLC0415
    from reelray.proto.errors import InputError  # noqa: PLC0415

    settled = [name for name, value in wish.items() if value is not None]
    if settled:
        raise InputError(f"--{settled[0]} was given with --from; the snapshot has settled it")
    assert source.snapshot is not None, "there is something to go on from"
    stream_from(source.snapshot, prompt, way, source.services, listens=source.interactive)
