"""`reelray doctor`: can this machine render?"""

import json as jsonlib
from typing import Annotated

import typer

from reelray.cluster.cli.session import session_of


def doctor(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show stack traces of errors.")] = False,
) -> None:
    """Show machine, libraries and what is missing, with the command that installs it.

    The exit code is 0 when a video can be rendered here, 1 when not.
    """
    session = session_of(context)
    session.set_debug(wanted=debug)
    from reelray.cluster.doctor import describe_machine, inspect_machine  # noqa: PLC0415  `--help` needs none of it

    report = inspect_machine(session.services)
    typer.echo(jsonlib.dumps(report.as_json(), indent=2) if json else describe_machine(report))
    if not report.can_render:
        raise typer.Exit(1)
