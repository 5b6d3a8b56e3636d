"""`reelray stream`: prompts that follow each other in one video, from the command line into the file."""

import json
import shutil

import numpy as np
import pytest
import yaml

from reelray.cluster.cli.entry import main

SMALL = (
    "--size",
    "48x32",
    "--fps",
    "16",
    "--frames",
    "41",
    "--engine",
    "local",
    "--device",
    "cpu",
    "--seed",
    "3",
    "--json",
)


@pytest.fixture
def stream(tiny_stream, tmp_path, capfd):
    def run(*arguments, output="out.npy", model=tiny_stream):
        code = main(["stream", "a red circle", "-m", str(model), "-o", str(tmp_path / output), *SMALL, *arguments])
        said = capfd.readouterr()
        return code, (json.loads(said.out) if said.out else None), said.err, tmp_path / output

    return run


def test_prompts_follow_each_other_into_the_file(stream):
    code, plain, _, path = stream(output="plain.npy")
    assert code == 0
    assert "later_prompts" not in plain
    alone = np.load(path)
    code, summary, _, path = stream("--at", "1s", "a blue star spins", "--at=1.6s", "a pink heart")
    assert code == 0
    changed = np.load(path)
    assert summary["later_prompts"] == [
        {"latent_frame": 5, "prompt": "a blue star spins"},
        {"latent_frame": 8, "prompt": "a pink heart"},
    ]
    assert changed.shape == alone.shape == (41, 32, 48, 3)
    # Latent frame 6 begins the first chunk that goes by the second prompt: pixel frame 21.
    assert np.array_equal(changed[:21], alone[:21])
    assert not np.array_equal(changed[21:29], alone[21:29])
    # Two changes, and each remembers frames anew.
    assert summary["forwards"] == plain["forwards"] + 2


@pytest.fixture(scope="module")
def rolling(tiny_stream, tmp_path_factory):
    """The same model with three chunks in flight."""
    rolling = tmp_path_factory.mktemp("rolling") / "tiny-rolling"
    shutil.copytree(tiny_stream, rolling)
    path = rolling / "manifest.yaml"
    manifest = yaml.safe_load(path.read_text())
    manifest["chunking"] = {"latent_frames": 2, "stagger": 1}
    manifest["schedule"] = {"solver": "x0_renoise", "timesteps": [1000, 600, 300], "shift": 5.0}
    manifest["memory"] = {"local": 8, "sink": 2, "placement": "anchored"}
    path.write_text(yaml.safe_dump(manifest))
    return rolling


def test_chunks_in_flight_go_into_the_file(stream, rolling):
    code, summary, _, path = stream("--at", "1s", "a blue star spins", model=rolling)
    assert code == 0
    assert np.load(path).shape == (41, 32, 48, 3)
    assert summary["forwards"] == 8 + 5  # six chunks: windows of up to three, and clean passes
    code, _, error, _ = stream("--layout", "pipe=2", model=rolling)
    assert code == 2
    assert "chunks in flight" in error


@pytest.fixture(scope="module")
def undistilled(tiny_stream, tmp_path_factory):
    """The same model with as many steps as are asked for."""
    folder = tmp_path_factory.mktemp("undistilled") / "tiny-undistilled"
    shutil.copytree(tiny_stream, folder)
    path = folder / "manifest.yaml"
    manifest = yaml.safe_load(path.read_text())
    manifest["schedule"] = {"solver": "unipc", "steps": 2, "shift": 5.0}
    path.write_text(yaml.safe_dump(manifest))
    return folder


def test_steps_guidance_and_what_to_avoid_are_those_of_a_render(stream, undistilled):
    _, plain, _, path = stream(output="plain.npy", model=undistilled)
    frames = [np.load(path)]
    guided = ("--steps", "3", "--guidance", "4")
    for more in ((), ("--negative", "a grey square")):
        code, summary, _, path = stream(*guided, *more, model=undistilled)
        assert code == 0
        assert (plain["steps"], summary["steps"], summary["guidance"]) == (2, 3, 4.0)
        assert summary["negative_prompt"] == (more[1] if more else "blurry")  # the default is the model's
        # Six chunks of which five are remembered, by each branch.
        assert (plain["forwards"], summary["forwards"]) == (6 * 2 + 5, 2 * (6 * 3 + 5))
        frames.append(np.load(path))
    assert not np.array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[1], frames[2])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--steps", "3"), 2, "is made for exactly 2 steps: its list of steps is fixed"),
        (("--negative", "rain"), 2, "runs without guidance, which is what reads it; leave it out, or give a guidance"),
        (("--guidance", "101"), 2, "guidance is 101; it must lie in 0..100"),
        (("--at", "1s"), 2, "the prompt at 1 s is empty"),
        (("--at", "2s", "--json"), 2, "2s has no prompt; give both"),
        (("--at", "later", "x"), 2, "the time of a prompt is 'later'"),
        (("--at", "40s", "x"), 2, "no chunk of this video begins then"),
        (("--at", "2s", "x", "--at", "1s", "y"), 2, "not after the one before it"),
        (("--layout", "pipe=2"), 2, "ulysses"),
    ],
)
def test_wrong_streams_are_one_line(stream, arguments, code, said):
    found, summary, error, path = stream(*arguments)
    assert found == code
    assert summary is None
    assert said in error
    assert error.count("\n") == 1
    assert not path.exists()


def test_a_model_of_whole_clips_is_refused(stream, tiny_t2v):
    code, _, error, _ = stream(model=tiny_t2v)
    assert code == 2
    assert "makes whole clips" in error


def test_after_two_dashes_everything_is_a_prompt(tiny_stream, tmp_path, capfd):
    output = tmp_path / "out.npy"
    assert main(["stream", "-m", str(tiny_stream), "-o", str(output), *SMALL, "--", "--at=1s"]) == 0
    assert json.loads(capfd.readouterr().out)["prompt"] == "--at=1s"
