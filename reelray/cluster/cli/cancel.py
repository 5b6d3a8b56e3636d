"""`reelray cancel`: ends renders."""

import typer

from reelray.cluster.cli import render_options as take
from reelray.cluster.cli import server_options as there
from reelray.cluster.cli.session import session_of

CANCEL_EPILOG = """\b
Examples:
  reelray cancel 5c1d…
  reelray jobs --state queued --json | jq -r '.[].id' | xargs reelray cancel
"""


def cancel(
    context: typer.Context,
    render_ids: there.RenderIds,
    *,
    server: there.Server = there.HERE,
    token: take.Token = None,
    tls_ca: take.ServerCertificate = None,
    json: there.Json = False,
    debug: take.Debug = False,
) -> None:
    """End renders that have not ended; says how each of them is then."""
    session_of(context).set_debug(wanted=debug)
    address = there.address_of(server, token, tls_ca)
    from reelray.cluster.client.kept_commands import cancel as run  # noqa: PLC0415

    run(address, render_ids, as_json=json)
