"""`reelray render` on several CPU processes: the frames of one rank, and nothing left behind, whatever happens."""

import json
import os
import signal
import threading
import time
from contextlib import contextmanager, suppress
from functools import cache

import numpy as np
import psutil
import pytest

from reelray.cluster.cli import main
from reelray.cluster.python_api import LocalClient
from reelray.cluster.services import default_services
from tests.support.commands import is_there, start_process

CODE = """
from reelray.cluster.cli import main
sys.exit(main(sys.argv[1:]))
"""
# When a client is killed, these look for its cluster for up to a minute before they end.
RAYS_OWN = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
WISH = {"seed": 3, "frames": 9, "size": "64x64", "device": "cpu"}


@cache
def frames_of_one_rank(steps):
    return LocalClient(default_services()).render("a red circle", {**WISH, "steps": steps, "engine": "local"}).frames


class Command:
    """A running render; its progress is read by a thread, so that it never waits for a reader."""

    def __init__(self, process):
        self.process = process
        self.lines = []
        self.seen = set()
        self.denoises = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            if line.startswith("denoising"):
                self.denoises.set()

    def ranks(self):
        """Pids of the rank processes there are now; remembers all processes."""
        found = []
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    words = " ".join(child.cmdline())
                    if not words.startswith(RAYS_OWN):
                        self.seen.add(child)
                    if "ray::RankActor.serve" in words or "engine.gang_rank" in words:
                        found.append(child.pid)
        return sorted(found)

    def end(self):
        """Wait for the command and for all of its processes; returns exit code and the summary."""
        out = self.process.stdout.read()
        code = self.process.wait(120)
        self._reader.join()
        deadline = time.monotonic() + 30
        while any(map(is_there, self.seen)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert [one for one in self.seen if is_there(one)] == []
        return code, out


def wishes(steps):
    return [f"--{name}={value}" for name, value in {**WISH, "steps": steps}.items()]


@contextmanager
def rendering(folder, *options, steps):
    wish = ("render", "a red circle", "-o", "a.npy", "--json", *wishes(steps))
    with start_process(CODE, folder, *wish, *options) as process:
        yield Command(process)


def assert_equal(frames, wanted):
    apart = np.abs(frames.astype(int) - wanted)
    assert frames.shape == wanted.shape
    assert apart.max() <= 1
    assert np.mean(apart > 0) <= 0.001


@pytest.fixture
def render_here(forked, tmp_path, monkeypatch, capsys):  # noqa: ARG001
    """The command in this process: its summary, what else it said, and its frames."""
    monkeypatch.chdir(tmp_path)

    def render(*options, steps):
        code = main(["render", "a red circle", "-o", "a.npy", "--json", "--engine", "local", *wishes(steps), *options])
        said = capsys.readouterr()
        assert code == 0, said.err
        return json.loads(said.out), said.err.splitlines(), np.load("a.npy")

    return render


def check_two_processes(said, lines, frames, layout):
    assert (said["layout"], said["ranks"], said["device"]) == (layout, 2, "2 x cpu")
    assert any(line.startswith(f"layout {layout} on 2 CPU processes") for line in lines)
    assert f"2 x cpu ({layout})" in lines[-1]
    assert_equal(frames, frames_of_one_rank(3))


def test_two_processes_make_the_frames_of_one(tmp_path):
    with rendering(tmp_path, "--gpus", "2", "--engine", "local", steps=3) as command:
        assert command.denoises.wait(120), command.lines
        ranks = command.ranks()
        code, out = command.end()
    assert code == 0, command.lines
    assert len(ranks) == 2
    check_two_processes(json.loads(out), command.lines, np.load(tmp_path / "a.npy"), "cfg=2")  # as the plan says


def test_two_processes_share_a_video_as_the_user_says(render_here):
    check_two_processes(*render_here("--layout", "ulysses=2", steps=3), "ulysses=2")


def test_two_processes_leave_out_what_one_leaves_out(render_here):
    """Each attends half of the heads, and every head has stripes of its own."""
    policy = "stripes,reach=0,every=3,first_frame=no,neighbours=-1,dense_share=0.3,dense_layers=1,rows=64,forced=yes"
    wish = ("--size", "160x160", "--frames", "17", "--sparsity", policy)
    said, lines, frames = render_here(*wish, "--layout", "ulysses=2", steps=3)
    alone, _, wanted = render_here(*wish, steps=3)
    assert_equal(frames, wanted)
    assert said["attention"]["density"] == pytest.approx(alone["attention"]["density"], abs=1e-3)
    assert (said["attention"]["calls"], said["attention"]["dense"]) == (96, 40)  # of both
    assert (said["approximate"], alone["approximate"]) == (True, True)
    assert "2 x cpu (ulysses=2, approximate, 4" in lines[-1]
    assert said["attention"]["density"] < 0.6


def test_patches_come_near_the_frames_of_one_rank_and_say_so(render_here):
    wish = ("--layout", "pipe=2", "--patches", "2", "--exact-steps", "2")
    said, lines, frames = render_here(*wish, steps=12)
    assert (said["layout"], said["approximate"], said["patches"], said["exact_steps"]) == ("pipe=2", True, 2, 2)
    assert "2 x cpu (pipe=2, approximate, 2 patches)" in lines[-1]
    apart = np.abs(frames.astype(float) - frames_of_one_rank(12))
    assert apart.max() > 1
    assert 0 < np.mean(apart**2) < 255**2 / 100  # above 20 dB


def test_a_rank_killed_under_ray_costs_time_and_nothing_else(tmp_path):
    with rendering(tmp_path, "--gpus", "2", "--engine", "ray", steps=100) as command:
        assert command.denoises.wait(120), command.lines
        before = command.ranks()
        assert len(before) == 2
        os.kill(before[1], signal.SIGKILL)
        after = before
        while (after == before or len(after) < 2) and command.process.poll() is None:
            time.sleep(0.05)
            after = command.ranks()
        code, out = command.end()
    assert code == 0, command.lines
    assert before[0] in after  # it kept its weights
    assert len(set(after) - set(before)) == 1  # else the other one was killed too late
    assert json.loads(out)["layout"] == "cfg=2"  # all of standard output
    assert_equal(np.load(tmp_path / "a.npy"), frames_of_one_rank(100))


@pytest.mark.parametrize("engine", ["local", "ray"])
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)], ids=["ended", "killed"])
def test_nothing_is_left_of_an_ended_render(engine, sent, code, tmp_path):
    with rendering(tmp_path, "--layout", "ulysses=2", "--engine", engine, steps=1000) as command:
        assert command.denoises.wait(120), command.lines
        assert len(command.ranks()) == 2
        command.process.send_signal(sent)
        ended, out = command.end()
    assert (ended, out) == (code, ""), command.lines
    assert list(tmp_path.glob("*.npy")) == []
