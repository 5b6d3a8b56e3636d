"""`reelray info`: what made a video."""

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from reelray.cluster.cli.session import session_of
from reelray.proto.errors import InputError


def info(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A video or PNG folder.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show stack traces of errors.")] = False,
) -> None:
    """Show size, length, prompt, seed and model of a video that reelray made."""
    session_of(context).set_debug(wanted=debug)
    from reelray.cluster.video_info import read_video_info  # noqa: PLC0415  `--help` needs none of it

    if not file:
        raise InputError("FILE is empty; give a video or a folder of PNGs")
    facts = read_video_info(Path(file))
    if json:
        typer.echo(jsonlib.dumps(facts, indent=2))
    else:
        width = max(len(name) for name in facts)
        typer.echo("\n".join(f"{name:<{width}}  {value}" for name, value in facts.items()))
