"""Runs the tests in several processes: `python -m tests.side_by_side [pytest's arguments]`.

Each process takes one file after the other (`tests.support.claims`). A line of output begins with the number of its
process; the exit code is the highest one.
"""

import os
import subprocess
import sys
import tempfile
from threading import Thread

MOST = 4
"""Processes at once: some tests start several of their own."""


def main(arguments: list[str], processes: int) -> int:
    """Run pytest so many times at once; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="claims-") as folder:
        command = [sys.executable, "-m", "pytest", "-p", "tests.support.claims", f"--claims={folder}", *arguments]
        running = [
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for _ in range(processes)
        ]
        echoes = [Thread(target=echo, args=one) for one in enumerate(running, 1)]
        try:
            for thread in echoes:
                thread.start()
            return max(abs(process.wait()) for process in running)  # -9 if one was killed
        finally:
            for process in running:
                process.terminate()
                process.wait()
            for thread in echoes:
                thread.join()


def echo(number: int, process: "subprocess.Popen[bytes]") -> None:
    """Print what a process prints, line by line."""
    with process.stdout as lines:
        for line in lines:
            sys.stdout.buffer.write(b"%d| %b" % (number, line))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], min(MOST, os.cpu_count() or 1)))
