"""`reelray jobs`: the renders that a server keeps."""

from typing import Annotated

import typer

from reelray.cluster.cli import render_options as take
from reelray.cluster.cli import server_options as there
from reelray.cluster.cli.session import session_of

JOBS_EPILOG = """\b
Examples:
  reelray jobs
  reelray jobs --state running --server gpu-7 --token "$TOKEN"
  reelray jobs --json | jq -r '.[] | select(.state == "failed") | .error'
"""

State = Annotated[
    str | None, typer.Option(metavar="STATE", help="Only those that are queued, running, done, failed or cancelled.")
]
Most = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Most renders, the newest first.")]


def jobs(
    context: typer.Context,
    *,
    state: State = None,
    limit: Most = 50,
    server: there.Server = there.HERE,
    token: take.Token = None,
    tls_ca: take.ServerCertificate = None,
    json: there.Json = False,
    debug: take.Debug = False,
) -> None:
    """List renders that were submitted to a server, the newest first."""
    session_of(context).set_debug(wanted=debug)
    address = there.address_of(server, token, tls_ca)
    from reelray.cluster.client.kept_commands import list_jobs  # noqa: PLC0415

    list_jobs(address, state=state, most=limit, as_json=json)
