"""Options of commands that speak to a server only."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from reelray.cluster.client.connection import ServerAddress

Server = Annotated[str, typer.Option(metavar="HOST[:PORT]", help="Where reelray serve runs.")]
RenderId = Annotated[str, typer.Argument(metavar="ID", help="As reelray submit printed it.", show_default=False)]
RenderIds = Annotated[
    list[str], typer.Argument(metavar="ID...", help="As reelray submit printed it.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
HERE = "localhost"


def address_of(server: str, token: str | None, tls_ca: Path | None) -> "ServerAddress":
    """Where to call.

    Raises:
        UnsupportedError: gRPC is not installed.
        InputError: The token cannot be said.
    """
    from reelray.cluster.serve_extra import needs_serve_extra  # noqa: PLC0415  `--help` needs none of this

    with needs_serve_extra():
        from reelray.cluster.client.connection import ServerAddress  # noqa: PLC0415

    return ServerAddress(address=server, token=token, certificate=tls_ca)
