"""`reelray settings`: what the environment sets."""

import json as jsonlib
import os
from typing import Annotated

import typer

from reelray.cluster.cli.session import session_of


def settings(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every setting, its environment variable and its value."""
    from reelray.cluster.settings import variable_name  # noqa: PLC0415  `--help` needs none of it

    current = session_of(context).services.load_settings()
    values = current.model_dump(mode="json")
    if json:
        typer.echo(jsonlib.dumps(values, indent=2))
        return
    for name, field in type(current).model_fields.items():
        value = values[name]
        text = os.pathsep.join(value) if isinstance(value, list) else value
        typer.echo(f"{variable_name(name)} = {text}\n    {field.description}")
