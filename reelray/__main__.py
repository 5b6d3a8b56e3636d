"""`python -m reelray`, and what the `reelray` command runs."""

import os
import signal
import sys
from pathlib import Path


def main() -> int:
    """Run the command line; Ctrl-C while it is still being imported ends the process without a stack trace."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller, as in `2>&-`; Ray and others expect a stream
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  for the whole process
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from reelray.cluster.cli import main as run  # noqa: PLC0415  the import is what may be interrupted

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()


if __name__ == "__main__":
    sys.exit(main())
