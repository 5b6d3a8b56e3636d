"""The commands and the options that all share."""

from typing import Annotated

import typer

import reelray
from reelray.cluster.cli.bench import bench
from reelray.cluster.cli.cancel import CANCEL_EPILOG, cancel
from reelray.cluster.cli.doctor import doctor
from reelray.cluster.cli.fetch import FETCH_EPILOG, fetch
from reelray.cluster.cli.info import info
from reelray.cluster.cli.jobs import JOBS_EPILOG, jobs
from reelray.cluster.cli.models import models
from reelray.cluster.cli.plan import PLAN_EPILOG, plan
from reelray.cluster.cli.render import RENDER_EPILOG, render
from reelray.cluster.cli.serve import SERVE_EPILOG, serve
from reelray.cluster.cli.session import session_of
from reelray.cluster.cli.settings import settings
from reelray.cluster.cli.simulate import SIMULATE_EPILOG, simulate
from reelray.cluster.cli.stream import STREAM_EPILOG, StreamCommand, stream
from reelray.cluster.cli.submit import SUBMIT_EPILOG, submit
from reelray.cluster.cli.upload import UPLOAD_EPILOG, upload
from reelray.cluster.cli.watch import WATCH_EPILOG, watch

USAGE_EXIT_CODE = 2

# Plain help: the same text in a terminal, in a pipe and in the documentation.
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"reelray {reelray.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001  its callback prints
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show stack traces of errors.")] = False,
) -> None:
    """Serve video diffusion transformers.

    Exit codes: 0 done, 1 unexpected error, 2 wrong input, 3 unusable checkpoint, 4 output not written,
    5 out of memory, 6 engine lost, 7 store lost, 130 interrupted.
    """
    session_of(context).set_debug(wanted=debug)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(USAGE_EXIT_CODE)


app.command(epilog=RENDER_EPILOG)(render)
app.command(epilog=STREAM_EPILOG, cls=StreamCommand)(stream)
app.command(epilog=SERVE_EPILOG)(serve)
app.command(epilog=SUBMIT_EPILOG, cls=StreamCommand)(submit)
app.command(epilog=JOBS_EPILOG)(jobs)
app.command(epilog=WATCH_EPILOG)(watch)
app.command(epilog=CANCEL_EPILOG)(cancel)
app.command(epilog=FETCH_EPILOG)(fetch)
app.command(epilog=UPLOAD_EPILOG)(upload)
app.command(epilog=PLAN_EPILOG)(plan)
app.command(epilog=SIMULATE_EPILOG)(simulate)
app.add_typer(bench, name="bench")
app.command()(models)
app.command()(doctor)
app.command()(info)
app.command()(settings)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"reelray {reelray.__version__}")
