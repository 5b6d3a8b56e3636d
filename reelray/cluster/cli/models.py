"""`reelray models`: the checkpoints of this machine."""

import json as jsonlib
from typing import Annotated

import typer

from reelray.cluster.cli.session import session_of


def models(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show stack traces of errors.")] = False,
) -> None:
    """List presets and the checkpoints found on this machine."""
    session = session_of(context)
    session.set_debug(wanted=debug)
    from reelray.cluster.model_report import describe_models, list_models  # noqa: PLC0415  `--help` needs none of it

    listed = list_models(session.services.open_catalog(session.services.load_settings()))
    typer.echo(jsonlib.dumps(listed, indent=2) if json else describe_models(listed))
