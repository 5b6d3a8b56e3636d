"""Runs the command line with fake services, in this process or in another."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from reelray.cluster.cli import main
from tests.support.fake_engine import FakeEngine, fake_services, write_models

ROOT = Path(__file__).parents[2]


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("reelray: error: ")]


class CommandLine:
    """`run(...)` behaves as `reelray ...` in the folder `cwd`."""

    def __init__(self, cwd: Path, engine: FakeEngine, capture: pytest.CaptureFixture[str]) -> None:
        self.cwd = cwd
        self.engine = engine
        self.services = fake_services(engine, write_models(cwd.parent / "models"))
        self._capture = capture

    def run(self, *arguments: object) -> Ran:
        self._capture.readouterr()
        code = main([str(argument) for argument in arguments], self.services)
        captured = self._capture.readouterr()
        return Ran(code, captured.out, captured.err)

    def files(self) -> list[str]:
        """Everything in the folder, hidden files too."""
        return sorted(path.name for path in self.cwd.iterdir())


def is_there(process: psutil.Process) -> bool:
    """Whether a process runs; one whose parent has yet to read its end does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def start_process(code: str, cwd: Path, *arguments: str, stdin: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run Python with the repository on its path; `code` may use everything of `tests.support.fake_engine`."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys\n" + code, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # processes of its own need the repository too
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_address(process: subprocess.Popen[str]) -> str:
    """Read what `reelray serve` says until it serves the model `fake`; gives its address."""
    for line in process.stderr:
        if found := re.search(r"serving fake on cpu at (\S+) \(gRPC\)", line):
            return found[1]
    raise AssertionError(process.stdout.read())
