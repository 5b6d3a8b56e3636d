"""Starts the ranks of a gang as processes of this machine."""

import pickle
import subprocess
import sys
import tempfile
from typing import IO

from reelray.workers.engine.gang_wire import Invitation
from reelray.workers.parallel.local_ranks import loopback_interface

TAIL_BYTES = 600
END_S = 10.0


class LocalProcess:
    """One rank process; its error output goes to a file that is read only if it dies.

    Args:
        process: The process.
        errors: Its error output.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors

    def is_alive(self) -> bool:
        """See `RankProcess`."""
        return self._process.poll() is None

    def kill(self) -> None:
        """See `RankProcess`; a stopped process ends too."""
        if self.is_alive():
            self._process.kill()
        self._process.wait(END_S)
        self._errors.close()

    def last_words(self) -> str:
        """See `RankProcess`."""
        try:
            code: int | None = self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            code = None
        end = "its connection closed" if code is None else f"ended by signal {-code}" if code < 0 else f"exit {code}"
        self._errors.seek(0, 2)
        self._errors.seek(max(0, self._errors.tell() - TAIL_BYTES))
        lines = self._errors.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f"{end}: {said[-1]}" if said else end


class LocalLauncher:
    """Implements `RankLauncher` with fresh interpreters on the loopback interface."""

    def __init__(self) -> None:
        self.host = "127.0.0.1"
        self.interface: str | None = loopback_interface()

    def launch(self, invitation: Invitation) -> LocalProcess:
        """See `RankLauncher`."""
        errors = tempfile.TemporaryFile(prefix="reelray-rank-")  # noqa: SIM115  closed by `kill`
        process = subprocess.Popen(
            [sys.executable, "-m", "reelray.workers.engine.gang_rank"],
            stdin=subprocess.PIPE,
            stdout=errors,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is for the command, which then ends its ranks
        )
        assert process.stdin is not None
        try:
            process.stdin.write(pickle.dumps(invitation))
            process.stdin.close()
        except BrokenPipeError:
            pass  # it died at once; whoever waits for it will see
        return LocalProcess(process, errors)
