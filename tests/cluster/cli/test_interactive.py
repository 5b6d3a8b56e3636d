"""`reelray stream --interactive`: prompts come through a pipe while the video is made."""

import json
import os
import sys

import numpy as np
import pytest

from reelray.cluster.cli.entry import main

SMALL = ["--size", "48x32", "--fps", "16", "--engine", "local", "--device", "cpu", "--seed", "3", "--json"]


@pytest.fixture
def play(tiny_stream, tmp_path, capfd, monkeypatch):
    def play(*arguments, typed="", output="out.npy"):
        source, sink = os.pipe()
        os.write(sink, typed.encode())
        os.close(sink)
        with os.fdopen(source) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            path = tmp_path / output
            code = main(["stream", "a red circle", "-m", str(tiny_stream), "-o", str(path), *SMALL, *arguments])
        said = capfd.readouterr()
        return code, (json.loads(said.out) if said.out else None), said.err, path

    return play


def test_what_is_typed_makes_the_video_of_what_was_known(play):
    typed = "/pause\n/halp\n/at 1s a blue star spins\n/at 40s x\n/extend 1s\n/at 2.2s a pink heart\n/resume\n"
    code, live, said, path = play("--interactive", "--frames", "29", typed=typed)
    assert code == 0, said
    assert "error: there is no order /halp" in said
    assert "error: the prompt comes after the end of the video" in said
    assert "the video now has 2.81 s" in said
    later = ("--at", "1s", "a blue star spins", "--at", "2.2s", "a pink heart")
    code, known, _, other = play("--frames", "45", *later, output="b.npy")
    assert code == 0
    assert np.load(path).shape == (45, 32, 48, 3)
    assert np.array_equal(np.load(path), np.load(other))
    assert live["frames"] == known["frames"] == 45
    assert [change["prompt"] for change in live["later_prompts"]] == ["a blue star spins", "a pink heart"]


def test_a_stopped_video_is_written_as_far_as_it_came(play):
    code, live, said, path = play("-i", "--seconds", "15", typed="/stop\n")
    assert code == 0, said
    whole = np.load(play("--frames", "45", output="b.npy")[3])
    frames = np.load(path)
    assert live["frames"] == len(frames) < 45
    assert np.array_equal(frames, whole[: len(frames)])


def test_the_end_of_the_input_lets_the_stream_go_on(play):
    code, live, said, _ = play("-i", "--seconds", "2", typed="/pause\n", output="c.mp4")
    assert code == 0, said
    assert live["frames"] == 37
