"""Runs the command line: one clear line and an exit code for every failure."""

import contextlib
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from types import FrameType

import typer

from reelray.cluster.cli.app import USAGE_EXIT_CODE, app
from reelray.cluster.cli.session import Session
from reelray.cluster.services import Services, default_services
from reelray.proto.errors import CancelledError, ReelrayError, ResourceError

UNEXPECTED_EXIT_CODE = 1
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
PIPE_EXIT_CODE = 128 + 13


def main(arguments: Sequence[str] | None = None, services: Services | None = None) -> int:
    """Run `reelray` with `arguments` and return its exit code.

    Args:
        arguments: Without the program's name; None takes those of the process.
        services: What commands are built from; None takes the real ones.
    """
    session, signals = Session(services=services or default_services()), list[int]()
    try:
        with _one_line_per_failure(signals):
            code = app(
                args=None if arguments is None else list(arguments),
                prog_name="reelray",
                obj=session,
                standalone_mode=False,
            )
    except SystemExit as leaving:
        if signals:  # Ray leaves with 1 when it is told to while it waits
            raise SystemExit(128 + signals[0]) from leaving
        if not isinstance(leaving.__context__, BrokenPipeError):  # Typer leaves with 1 then
            raise
        # Whoever read the output has left: `reelray models | head -1`. Nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_EXIT_CODE
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the boundary: whatever happened becomes one line
        if isinstance(error, typer.Abort) and isinstance(error.__cause__, EOFError):
            error = error.__cause__  # Typer takes every one for an end of input at a prompt of its own
        if session.debug:
            traceback.print_exception(error)
        message, exit_code = describe_failure(error)
        _print_error(message)
        return exit_code
    if code == CancelledError.exit_code:
        # Typer took the KeyboardInterrupt and left only this.
        _print_error("interrupted")
    return code if isinstance(code, int) else 0


def describe_failure(error: BaseException) -> tuple[str, int]:
    """Say in one line what happened, and with which exit code to leave."""
    if isinstance(error, ReelrayError):
        return error.message, error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "interrupted", CancelledError.exit_code
    if isinstance(error, MemoryError):
        return "the memory of this machine ran out; ask for fewer frames or a smaller size", ResourceError.exit_code
    # Usage errors have no public base class in Typer; this method is what they share in every version.
    format_message = getattr(error, "format_message", None)
    if format_message is not None:
        told = f"{format_message()} (see reelray --help)"
        if "unexpected extra argument" in told:
            told = told.replace(" (see", "; words that belong together go in quotes (see")
        return told, USAGE_EXIT_CODE
    told = f"unexpected {type(error).__name__}: {error}" if str(error) else f"unexpected {type(error).__name__}"
    return f"{told}; run again with --debug for the stack trace", UNEXPECTED_EXIT_CODE


def _print_error(message: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads; the exit code still tells
        print(f"reelray: error: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201


@contextlib.contextmanager
def _one_line_per_failure(signals: list[int]) -> Iterator[None]:
    """Keep the warnings of libraries and our own logged stack traces off standard error; unwind when terminated.

    Args:
        signals: Takes the numbers of those that end the command.
    """
    logger, silence = logging.getLogger("reelray"), logging.NullHandler()
    # A signal that is ignored, as under nohup, stays ignored.
    previous = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, partial(_end, signals))
    logger.addHandler(silence)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeHandler(silence)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _end(signals: list[int], number: int, _frame: FrameType | None) -> None:
    # Unwinds the stack, so that partial files and the engine go away as with Ctrl-C.
    signals.append(number)
    raise SystemExit(128 + number)
