"""`reelray stream --interactive`: prompts come through a pipe while the video is made."""

import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from reelray.cluster.cli.entry import main
from reelray.cluster.video_info import read_video_info

HERE = ["--engine", "local", "--device", "cpu", "--json"]
SMALL = ["a red circle", "--size", "48x32", "--fps", "16", "--seed", "3"]


@pytest.fixture
def play(tiny_stream, tmp_path, capfd, monkeypatch):
    def play(*arguments, typed="", output="out.npy", begins=True):
        source, sink = os.pipe()
        os.write(sink, typed.encode())
        os.close(sink)
        with os.fdopen(source) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            path = tmp_path / output
            wish = SMALL if begins else []
            code = main(["stream", *wish, "-m", str(tiny_stream), "-o", str(path), *HERE, *arguments])
        said = capfd.readouterr()
        return code, (json.loads(said.out) if said.out else None), said.err, path

    return play


def test_what_is_typed_makes_the_video_of_what_was_known(play):
    typed = "/pause\n/hold\n/at 1s a blue star spins\n/at 40s x\n/extend 1s\n/at 2.2s a pink heart\n/resume\n"
    code, live, said, path = play("--interactive", "--frames", "29", typed=typed)
    assert code == 0, said
    assert "error: there is no order /hold" in said
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
    typed = "/pause\n/at 1s a blue star spins\n"
    code, live, said, path = play("-i", "--seconds", "2", typed=typed, output="c.mp4")
    assert code == 0, said
    assert live["frames"] == 37
    assert read_video_info(path)["later_prompts"] == live["later_prompts"]  # which came when the file was open
    assert [change["prompt"] for change in live["later_prompts"]] == ["a blue star spins"]


def test_a_snapshot_is_taken_and_gone_on_from(play, tmp_path):
    snapshot = tmp_path / "a.snap"
    typed = f"/pause\n/snapshot {snapshot} replay\n/snapshot {tmp_path}/no/b.snap\n/snapshot\n/resume\n"
    code, _, said, path = play("-i", "--frames", "45", typed=typed)
    assert code == 0, said
    assert f"--from {snapshot} goes on at" in said
    assert "error: cannot write" in said
    assert "error: /snapshot takes a file" in said
    whole = np.load(path)
    code, rest, said, path = play("--from", str(snapshot), output="rest.npy", begins=False)
    assert code == 0, said
    assert rest["first_frame"] + rest["frames"] == 45
    assert np.array_equal(np.load(path), whole[rest["first_frame"] :])
    code, rest, said, path = play(
        "a pink heart", "--from", str(snapshot), "--format", "png-dir", output="other", begins=False
    )
    assert code == 0, said
    later = [change["prompt"] for change in rest.get("later_prompts", [])]
    assert [rest["prompt"], *later][-1] == "a pink heart"  # the first chunk may not have begun
    frames = np.stack([np.asarray(Image.open(file)) for file in sorted(path.glob("*.png"))])
    assert len(frames) == rest["frames"]
    assert not np.array_equal(frames, whole[rest["first_frame"] :])
    code, _, said, path = play(" ", "--from", str(snapshot), output="never.mp4", begins=False)
    assert (code, said) == (2, "reelray: error: the prompt is empty; say what the video shows from then on\n")
    inside = read_video_info(tmp_path / "other")
    for name in ("prompt", "later_prompts", "first_frame", "frames", "seed"):
        assert inside.get(name) == (rest.get(name) or None), name


def test_what_goes_on_from_a_snapshot_has_a_name_of_its_own(play, tiny_stream, tmp_path, monkeypatch):
    """The video that it was taken of is not replaced."""
    snapshot = tmp_path / "a.snap"
    assert play("-i", "--frames", "29", typed=f"/snapshot {snapshot} replay\n")[0] == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-red-circle-3.mp4").write_bytes(b"the first part")
    assert main(["stream", "--from", str(snapshot), "-m", str(tiny_stream), *HERE]) == 0
    assert (tmp_path / "a-red-circle-3.mp4").read_bytes() == b"the first part"
    assert len([*tmp_path.glob("a-red-circle-3-from-*.mp4")]) == 1


def test_quiet_keeps_the_answers_to_what_is_typed(play):
    code, _, said, _ = play("-i", "-q", "--frames", "13", typed="/hold\n")
    assert code == 0
    assert "error: there is no order /hold" in said
    assert "denoising" not in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--from", "no.snap"), "snapshot 'no.snap' cannot be read"),
        (("--from", "no.snap", "--seconds", "3"), "--seconds was given with --from"),
        (("--from", __file__), "is no snapshot of a stream"),
        ((), "no prompt was given; say what the video shows"),
        ((" ",), "the prompt is empty"),
    ],
)
def test_wrong_snapshots_are_one_line(play, arguments, told):
    code, summary, said, path = play(*arguments, begins=False)
    assert code == 2
    assert summary is None
    assert told in said
    assert said.count("\n") == 1
    assert not path.exists()
