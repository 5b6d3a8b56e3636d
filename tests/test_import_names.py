"""Folders of ours keep their names: some distributions install top-level `tests`, `benchmarks` and `examples`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = ("tests", "benchmarks", "examples")
SPAWN = """
import importlib, multiprocessing, sys

def show(connection=None):
    found = [importlib.import_module(name).__file__ for name in sys.argv[1:]]
    print(*found, sep="\\n") if connection is None else connection.send(found)

if __name__ == "__main__":
    show()
    mine, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=show, args=(theirs,))
    child.start()
    print(*mine.recv(), sep="\\n")
    child.join()
"""


@pytest.mark.parametrize("first", [False, True])
def test_our_folders_are_found_before_those_of_others(tmp_path: Path, first: bool) -> None:
    for name in NAMES:
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "harness.py").write_text("")
    script = tmp_path / "script.py"
    script.write_text(SPAWN)
    folders = [str(tmp_path / "site"), str(ROOT)]
    path = os.pathsep.join(folders if first else reversed(folders))
    found = subprocess.run(
        [sys.executable, str(script), *NAMES],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == [str(ROOT / name / "__init__.py") for name in NAMES] * 2
