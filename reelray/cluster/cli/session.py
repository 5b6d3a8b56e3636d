"""What commands of one run share."""

import logging
from dataclasses import dataclass

import typer

from reelray.cluster.services import Services


@dataclass(kw_only=True, slots=True)
class Session:
    """One run of the command line.

    Args:
        services: What commands are built from.
        debug: Show stack traces.
    """

    services: Services
    debug: bool = False

    def set_debug(self, *, wanted: bool) -> None:
        """Show stack traces and logs from now on if wanted; once on, it stays on."""
        if wanted and not self.debug:
            self.debug = True
            logging.getLogger("reelray").addHandler(logging.StreamHandler())


def session_of(context: typer.Context) -> Session:
    """The session of a running command."""
    session = context.obj
    assert isinstance(session, Session), "main() passes a session"
    return session
