"""However the command ends, nothing of its Ray cluster is left."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from reelray.cluster.embedded_ray import EmbeddedRay
from reelray.proto.errors import EngineError
from tests.support.shared_memory import left_in_memory
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


def tree(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def is_alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGINT, 130), (signal.SIGKILL, -9), pytest.param(signal.SIGTERM, -15, marks=pytest.mark.slow)],
)
def test_nothing_is_left_however_the_command_ends(sent, code, tmp_path):
    home, scratch = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    scratch.mkdir()
    shared_memory = set(Path("/dev/shm").iterdir())
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.support.ray_driver"],
        cwd=ROOT,
        env={**variables, "HOME": str(home), "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        line = driver.stdout.readline()
        assert line, driver.stderr.read()
        started = json.loads(line)
        assert len(started["children"]) >= 4
        os.killpg(driver.pid, sent)  # a terminal sends Ctrl-C to the whole group
        _, messages = driver.communicate(timeout=60)
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == code
    assert messages == ""
    assert wait_until(lambda: not any(map(is_alive, started["children"])))
    assert wait_until(lambda: not Path(started["folder"]).exists())
    assert tree(home) == tree(scratch) == []
    assert wait_until(lambda: not left_in_memory(shared_memory))


def test_a_ray_that_does_not_start_is_one_line(monkeypatch):
    def refuse(_self, _ray):
        raise RuntimeError("no room\nat all")

    monkeypatch.setattr(EmbeddedRay, "_init", refuse)
    cluster = EmbeddedRay()
    with pytest.raises(EngineError, match=r"^Ray does not start: RuntimeError: no room$"):
        cluster.start()
    assert not cluster._folder.exists()
    assert cluster._watchdog is None


def test_the_client_side_needs_no_torch():
    code = "import sys, reelray.cluster.embedded_engine; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
