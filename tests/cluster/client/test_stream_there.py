"""`reelray stream --server`: the same options, the same file."""

import json
import os
import sys

import numpy as np
import pytest

from reelray.cluster.cli.entry import main
from reelray.cluster.video_info import read_video_info
from tests.support.conversing import serve_tiny

SMALL = ("a red circle", "--size", "48x32", "--fps", "16", "--seed", "3", "--json")


@pytest.fixture(scope="module")
def address(tiny_stream):
    with serve_tiny(tiny_stream) as (address, _):
        yield address


@pytest.fixture
def play(tiny_stream, address, tmp_path, capfd, monkeypatch):
    """Run the command there or here; gives its exit code, what it told, and the file."""

    def play(*arguments, there=True, typed=""):
        source, sink = os.pipe()
        os.write(sink, typed.encode())
        os.close(sink)
        where = ("--server", address) if there else ("-m", str(tiny_stream), "--engine", "local", "--device", "cpu")
        (tmp_path / ("there" if there else "here")).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / ("there" if there else "here"))
        with os.fdopen(source) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            code = main(["stream", *arguments, *where])
        said = capfd.readouterr()
        return code, (json.loads(said.out) if said.out.startswith("{") else said.out), said.err

    return play


def alike(there, here):
    for report in (there, here):
        for name in ("file", "seconds", "peak_bytes"):
            report.pop(name)
    return there == here


@pytest.mark.parametrize(
    ("options", "typed", "name"),
    [
        (("--frames", "29", "--at", "1s", "a blue star spins"), "", "a.mp4"),
        (("--seconds", "1"), "", "a.npy"),
        (("--frames", "29", "-i"), "/pause\n/at 1s a blue star spins\n/extend 1s\n/resume\n", "a.mp4"),
        (("--seconds", "1", "-i"), "/pause\n/at 40s x\n/snapshot\n/resume\n", "a.npy"),
    ],
    ids=str,
)
def test_the_file_is_the_one_made_here(play, tmp_path, options, typed, name):
    code, there, said = play(*SMALL, *options, "-o", name, typed=typed)
    assert code == 0, said
    _, here, told = play(*SMALL, *options, "-o", name, there=False, typed=typed)
    assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    there.pop("first_frame", None)
    here.pop("first_frame", None)
    assert alike(there, here)
    for line in ("error: the prompt comes after the end of the video", "error: /snapshot takes", "the video now has"):
        assert (line in said) == (line in told)


def test_prompts_that_came_meanwhile_are_in_the_file(play, tmp_path):
    typed = "/pause\n/at 1s a blue star spins\n/snapshot x.snap\n/resume\n/help\n"
    code, told, said = play(*SMALL, "-i", "--seconds", "2", "-o", "c.mp4", typed=typed)
    assert code == 0, said
    assert "error: a server writes no snapshots" in said
    assert told["frames"] == 37
    later = read_video_info(tmp_path / "there" / "c.mp4")["later_prompts"]
    assert [change["prompt"] for change in later] == ["a blue star spins"]
    assert later == told["later_prompts"]


def test_a_stopped_stream_is_written_as_far_as_it_came(play, tmp_path, known):
    code, told, said = play(*SMALL, "-i", "--seconds", "15", "-o", "a.npy", typed="/stop\n")
    assert code == 0, said
    frames = np.load(tmp_path / "there" / "a.npy")
    assert len(frames) == told["frames"] < 61
    assert np.array_equal(frames, known(frames=61)[: len(frames)])


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--frames", "18"), 2, "18 frames cannot be made"),
        (("--model", "nope"), 2, "is not served here"),
        (("--gpus", "2"), 2, "--gpus cannot be given with --server"),
        (("--from", "a.snap"), 2, "--from cannot be given with --server"),
        (("--at", "later", "x"), 2, "write seconds"),
        (("--guidance", "5", "--negative", "x", "--steps", "7"), 2, ""),
    ],
)
def test_wrong_input_is_one_line_and_no_file(play, tmp_path, options, code, text):
    ran, told, said = play(*SMALL, *options)
    assert (ran, told) == (code, "")
    assert text in said
    assert len([line for line in said.splitlines() if line.startswith("reelray: error: ")]) == 1
    assert not list((tmp_path / "there").iterdir())
