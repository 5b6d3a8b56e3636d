"""The application for the time of one command, as a job on a Ray cluster."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError
from ray import serve

from reelray.cluster.serve_app.app import build
from reelray.cluster.serve_app.arguments import AppArguments
from reelray.proto.errors import InputError

ADDRESS = "{address}"


def read_arguments(file: Path) -> AppArguments:
    """The arguments of the application in a YAML file.

    Raises:
        InputError: It cannot be read, or holds something else.
    """
    try:
        return AppArguments.model_validate(yaml.safe_load(file.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"'{file}' cannot be read: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(": ".join(filter(None, (f"'{file}'", where, first["msg"])))) from None


def run_beside(arguments: AppArguments, command: Sequence[str], *, name: str = "reelray") -> int:
    """Start the application on the connected cluster, run a command, and end the application in good order.

    Args:
        arguments: Of the application; its gateway must be on the machine of the command.
        command: Is told the gateway's address wherever it says ``{address}``.
        name: Of the application.

    Returns:
        The exit status of the command.
    """
    serve.start(proxy_location="Disabled")
    try:
        gateway = serve.run(build(arguments), name=name, route_prefix=None)
        address = f"127.0.0.1:{gateway.port.remote().result()}"
        words = [word.replace(ADDRESS, address) for word in command]
        return subprocess.run(words, check=False).returncode  # noqa: S603  the user's own
    finally:
        serve.delete(name)
