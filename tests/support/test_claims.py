"""Tests that several processes share are each run once, long files first."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CASE = """
import os, pathlib, pytest, time

@pytest.fixture(scope="module", autouse=True)
def ran():
    yield
    NOTES.joinpath(f"over-{__name__.rsplit('.', 1)[-1]}").touch(exist_ok=False)

@pytest.mark.parametrize("number", range(3))
def test_it(number):
    with NOTES.joinpath(f"by-{os.getpid()}").open("a") as notes:
        notes.write(f"{__name__.rsplit('.', 1)[-1]} {number}\\n")
    deadline = time.monotonic() + 60
    while len(list(NOTES.glob("by-*"))) < 2:  # until the other process runs too
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert number < FAILS
"""


def write_tests(folder, notes, *, fails=3):
    names = ["proto/test_a", "proto/test_b", "integration/test_c", "workers/models/test_d", "workers/test_e"]
    for name in names:
        path = folder / "tests" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"import pathlib\nNOTES, FAILS = pathlib.Path({str(notes)!r}), {fails}\n{CASE}")
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    return [name.rsplit("/", 1)[-1] for name in names]


def run(folder, *arguments):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.side_by_side import main"
    return subprocess.run(
        [sys.executable, "-c", f"{code}; sys.exit(main(sys.argv[1:], 2))", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_test_runs_once_and_each_file_in_one_process(tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    names = write_tests(tmp_path, notes)
    ran = run(tmp_path, "-q", "--import-mode=importlib")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    one, other = ([line.split() for line in path.read_text().splitlines()] for path in notes.glob("by-*"))
    assert sorted([*one, *other]) == sorted([name, str(number)] for name in names for number in range(3))
    assert not {name for name, _ in one} & {name for name, _ in other}
    assert {one[0][0], other[0][0]} == {"test_c", "test_d"}
    assert sorted(path.name for path in notes.glob("over-*")) == sorted(f"over-{name}" for name in names)


def test_a_failure_in_any_process_fails_the_run(tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    write_tests(tmp_path, notes, fails=2)
    ran = run(tmp_path, "-q", "--import-mode=importlib")
    assert ran.returncode == 1
    assert ran.stdout.count("assert 2 < 2") >= 5
    assert run(tmp_path, "-q", "tests/nothing").returncode == 4
