"""A supervised process: it comes back, it is given up, it ends in good order, and nobody is left alone."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.commands import ROOT, is_there
from tests.support.waiting import wait_until


@contextmanager
def supervised(folder, *words):
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.supervised", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines_until(process, pattern):
    """Read until a line fits; gives what it found."""
    for line in process.stdout:
        if found := re.search(pattern, line):
            return found
    raise AssertionError(f"{pattern} was never said")


def server_of(process):
    """Process of the server that starts next, and where the one before it has listened."""
    found = lines_until(process, r"server (\d+) (\w+)")
    return psutil.Process(int(found[1])), found[2]


def test_a_server_that_was_ready_comes_back_where_it_was(tmp_path):
    with supervised(tmp_path, "bear", "ready", "leave") as process:
        first, before = server_of(process)
        child = psutil.Process(int(lines_until(process, r"here bear (\d+)")[1]))
        assert (before, first.ppid()) == ("None", process.pid)
        first.kill()
        lines_until(process, r"the server was lost \(killed by SIGKILL\); starting it again")
        second, before = server_of(process)
        assert (before, second.ppid()) == ("50051", process.pid)
        wait_until(lambda: not is_there(child))
        lines_until(process, "here")
        second.kill()
        assert server_of(process)[1] == "50102"  # what it said last
        assert process.wait(20) == 0


def test_it_comes_back_also_where_nobody_reads_what_is_said(tmp_path):
    with supervised(tmp_path, "ready", "mute") as process:
        server, _ = server_of(process)
        lines_until(process, "here")
        process.stdout.close()
        server.kill()
        wait_until((tmp_path / "mute").exists)
        assert process.poll() is None
        process.stdout = None


def test_one_that_was_never_ready_is_not_started_again(tmp_path):
    with supervised(tmp_path, "fail") as process:
        out = process.communicate(timeout=20)[0]
    assert (process.returncode, out.count("server ")) == (3, 1)
    assert Path(tmp_path / "lives").read_text() == "x"


def test_killed_while_it_starts_it_says_so(tmp_path):
    with supervised(tmp_path, "stay") as process:
        server, _ = server_of(process)
        lines_until(process, "here")
        server.kill()
        lines_until(process, r"the server was lost while it started \(killed by SIGKILL\)")
        assert process.wait(20) == 128 + signal.SIGKILL


def test_lost_too_often_it_is_given_up(tmp_path):
    with supervised(tmp_path, "ready", "fail") as process:
        server, _ = server_of(process)
        lines_until(process, "here")
        server.kill()
        out = process.communicate(timeout=20)[0]
    assert "the server was lost 3 times in a row, at last exit code 3; giving up" in out
    assert process.returncode == 6
    assert (tmp_path / "lives").read_text() == "xxx"


@pytest.mark.parametrize("to_the_group", [False, True])
def test_a_signal_is_handed_on_once_and_the_code_comes_back(tmp_path, to_the_group):
    with supervised(tmp_path, "ready") as process:
        server, _ = server_of(process)
        lines_until(process, "here")
        assert os.getpgid(server.pid) != os.getpgid(process.pid)
        (os.killpg if to_the_group else os.kill)(process.pid, signal.SIGTERM)
        assert process.wait(20) == 7
        assert not is_there(server)


def test_a_server_ends_with_its_supervisor_also_one_that_is_frozen(tmp_path):
    with supervised(tmp_path, "ready") as process:
        server, _ = server_of(process)
        lines_until(process, "here")
        server.send_signal(signal.SIGSTOP)
        process.kill()
        wait_until(lambda: not is_there(server))
