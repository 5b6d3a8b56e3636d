"""`reelray watch`: how a render goes, live."""

from typing import Annotated

import typer

from reelray.cluster.cli import render_options as take
from reelray.cluster.cli import server_options as there
from reelray.cluster.cli.session import session_of

WATCH_EPILOG = """\b
Examples:
  reelray watch 5c1d…
  reelray watch 5c1d… --json | jq -c .
  reelray watch 5c1d… --json --after 17
"""

After = Annotated[int, typer.Option(metavar="N", min=0, help="Number of the last event that was seen.")]


def watch(
    context: typer.Context,
    render_id: there.RenderId,
    *,
    after: After = 0,
    server: there.Server = there.HERE,
    token: take.Token = None,
    tls_ca: take.ServerCertificate = None,
    json: Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")] = False,
    debug: take.Debug = False,
) -> None:
    """Show how a render goes, until it has ended; leaving does not disturb it.

    A line that breaks is taken up again behind the last event. The exit code is 0 for a render that is done, 6 for one
    that failed, and 130 for one that was cancelled.
    """
    session_of(context).set_debug(wanted=debug)
    address = there.address_of(server, token, tls_ca)
    from reelray.cluster.client.kept_commands import watch as run  # noqa: PLC0415

    run(address, render_id, after=after, as_json=json)
