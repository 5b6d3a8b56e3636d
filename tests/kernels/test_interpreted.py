"""Runs every kernel test marked `interpreted_only` with Triton's interpreter, on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)  # all kernels in one process, interpreted
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="already inside")
def test_kernels_through_the_interpreter() -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "interpreted", "tests/kernels"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout
