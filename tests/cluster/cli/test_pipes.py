"""`-o -`: the video is all of standard output, and whoever reads it may leave."""

import json
import os
import signal

import numpy as np
import pytest

from reelray.cluster.cli.entry import main
from tests.support.commands import start_process

SLOW = """
from reelray.cluster.cli import main
from tests.support.fake_engine import FakeEngine, fake_services, write_models
from pathlib import Path

class Chatty(FakeEngine):
    def _events(self, request):
        print("a library speaks", flush=True)
        yield from super()._events(request)

sys.exit(main(sys.argv[1:], fake_services(Chatty(frame_delay_s=0.05), write_models(Path("models")))))
"""
SMALL = ("--size", "48x32", "--fps", "16", "--seed", "3", "--engine", "local", "--device", "cpu", "--json")


@pytest.fixture
def play(tiny_stream, capfdbinary):
    def play(*arguments):
        code = main(["stream", "a red circle", "-m", str(tiny_stream), *SMALL, *arguments])
        said = capfdbinary.readouterr()
        return code, said.out, said.err.decode()

    return play


def test_standard_output_is_the_frames_and_nothing_else(play, tmp_path):
    code, out, said = play("--frames", "29", "-o", "-", "--format", "raw")
    assert code == 0
    summary = json.loads(said.splitlines()[-1])
    assert (summary["file"], summary["format"], summary["frames"]) == ("-", "raw", 29)
    assert "wrote standard output: 29 frames" in said
    file = tmp_path / "a.npy"
    code, printed, _ = play("--frames", "29", "-o", str(file))
    assert code == 0
    assert json.loads(printed)["file"] == str(file)  # standard output is itself again
    assert out == np.load(file).tobytes()


def test_what_is_typed_changes_what_plays(play, tmp_path, monkeypatch):
    source, sink = os.pipe()
    os.write(sink, b"/pause\n/at 1s a blue star spins\n/resume\n")
    os.close(sink)
    with os.fdopen(source) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        code, out, said = play("--frames", "29", "-i", "-o", "-", "--format", "raw")
    assert code == 0
    assert "'a blue star spins' holds from" in said
    file = tmp_path / "b.npy"
    assert play("--frames", "29", "--at", "1s", "a blue star spins", "-o", str(file))[0] == 0
    assert out == np.load(file).tobytes()


PAUSED = """
from reelray.cluster.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_reader_may_leave_while_the_stream_is_paused(tiny_stream, tmp_path):
    wish = ("a disc", "-m", str(tiny_stream), *SMALL, "--seconds", "15", "-i", "-o", "live", "--format", "raw")
    os.mkfifo(tmp_path / "live")
    source, sink = os.pipe()
    os.write(sink, b"/pause\n")
    reader = os.open(tmp_path / "live", os.O_RDONLY | os.O_NONBLOCK)
    with start_process(PAUSED, tmp_path, "stream", *wish, stdin=source) as process:
        while "paused" not in process.stderr.readline():
            pass
        os.close(reader)
        assert process.wait(timeout=60) == 128 + signal.SIGPIPE
        assert "error" not in process.stderr.read()
    os.close(source)
    os.close(sink)


def test_a_reader_that_leaves_ends_it_as_it_ends_others(tmp_path):
    with start_process(SLOW, tmp_path, "render", "a disc", "-o", "-", "--frames", "401") as process:
        assert b"ftyp" in os.read(process.stdout.fileno(), 100)
        process.stdout.close()
        process.stdout = None
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGPIPE
    assert "error" not in err
    assert "Traceback" not in err
    assert "a library speaks" in err
    assert not [*tmp_path.glob(".reelray*")]


def test_ctrl_c_ends_it_while_nobody_reads(tmp_path):
    wish = ("-o", "-", "--format", "raw", "--size", "256x192")
    with start_process(SLOW, tmp_path, "render", "a disc", *wish) as process:
        os.read(process.stdout.fileno(), 1)  # the frames have begun to come, and the pipe holds less than one of them
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        process.stdout.close()
        process.stdout = None
        assert process.stderr.read().endswith("reelray: error: interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("-o", "-", "--format", "png-dir"), "cannot go into a pipe"), (("-o", "/dev/sda"), "has no ending")],
)
def test_wrong_pipes_are_one_line(play, arguments, told):
    code, out, said = play("--frames", "29", *arguments)
    assert code == 2
    assert out == b""
    assert told in said
    assert said.count("\n") == 1
