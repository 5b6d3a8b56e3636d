"""`reelray fetch`: the file of a render."""

from typing import Annotated

import typer

from reelray.cluster.cli import render_options as take
from reelray.cluster.cli import server_options as there
from reelray.cluster.cli.session import session_of

FETCH_EPILOG = """\b
Examples:
  reelray fetch 5c1d… -o cat.mp4
  reelray fetch 5c1d… -o - | mpv -
"""

Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Where it goes, or - for standard output. Default: a name made of the prompt and the seed.",
    ),
]


def fetch(
    context: typer.Context,
    render_id: there.RenderId,
    *,
    output: Output = None,
    no_clobber: take.NoClobber = False,
    server: there.Server = there.HERE,
    token: take.Token = None,
    tls_ca: take.ServerCertificate = None,
    json: there.Json = False,
    debug: take.Debug = False,
) -> None:
    """Fetch the MP4 of a render; waits for what is not made yet.

    The file appears under its name when it is complete. Until then it is .FILE.ID.part beside it; a fetch that was
    interrupted leaves it there, and the next one goes on behind its last byte.
    """
    session_of(context).set_debug(wanted=debug)
    address = there.address_of(server, token, tls_ca)
    from reelray.cluster.client.render_fetch import FetchOptions  # noqa: PLC0415
    from reelray.cluster.client.render_fetch import fetch as run  # noqa: PLC0415

    run(address, render_id, FetchOptions(output=output, replace=not no_clobber, json=json))
