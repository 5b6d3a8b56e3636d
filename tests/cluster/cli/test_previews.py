"""`--decoder preview`: from the command line into the file, and what is missing where it cannot be."""

import json
import shutil

import numpy as np
import pytest
import torch

import reelray
from reelray.cluster.cli.entry import main
from tests.support.tiny_taehv import draw_state

PLACE = ("--engine", "local", "--device", "cpu")
SMALL = ("--size", "48x32", "--frames", "21", "--seed", "3", "--json")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("previews") / "taew2_1.pth"
    torch.save(draw_state(), path)
    return path


@pytest.fixture
def run(tmp_path, capfd):
    def run(command, *arguments, output="out.npy"):
        code = main([command, *arguments, *PLACE, "-o", str(tmp_path / output)])
        said = capfd.readouterr()
        return code, (json.loads(said.out) if said.out else None), said.err, tmp_path / output

    return run


def test_a_file_beside_the_checkpoint_makes_previews(run, tiny_stream, file, tmp_path):
    model = tmp_path / "with-preview"
    shutil.copytree(tiny_stream, model)
    (model / "taehv").mkdir()
    shutil.copy(file, model / "taehv")
    code, summary, said, path = run("render", "a red circle", "-m", str(model), *SMALL, "--decoder", "preview")
    assert code == 0
    assert (summary["approximate"], summary["decoder"]) == (True, "taehv_stream")
    assert said.count("preview pictures (approximate)") == 2  # before and after
    preview = np.load(path)
    code, summary, said, path = run("render", "a red circle", "-m", str(model), *SMALL)
    assert (summary["approximate"], summary["decoder"]) == (False, "wan_exact_stream")
    assert "approximate" not in said
    assert preview.shape == np.load(path).shape == (21, 32, 48, 3)
    assert not np.array_equal(preview, np.load(path))


def test_a_named_file_makes_previews_of_streams_too(run, tiny_stream, file, capfd):
    wish = ("a red circle", "-m", str(tiny_stream), *SMALL, "--preview-decoder", str(file))
    code, summary, _, path = run("stream", *wish, output="out.mp4")
    assert code == 0
    assert summary["decoder"] == "taehv_stream"
    assert main(["info", str(path), "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert (facts["approximate"], facts["decoder"]) == (True, "taehv_stream")


@pytest.mark.parametrize("command", ["render", "stream"])
def test_what_is_missing_is_named(run, tiny_stream, tmp_path, command):
    wish = ("a red circle", "-m", str(tiny_stream), *SMALL)
    code, _, said, path = run(command, *wish, "--decoder", "preview")
    assert code == 2
    assert f"has no preview decoder: put taew2_1.pth, or the same as .safetensors, into {tiny_stream}/taehv" in said
    code, _, said, _ = run(command, *wish, "--preview-decoder", str(tmp_path / "gone.pth"))
    assert (code, "gone.pth: no such file" in said) == (2, True)
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    code, _, said, _ = run(command, *wish, "--decoder", "full", "--preview-decoder", str(tmp_path / "bad.pth"))
    assert (code, "decoder is full, and a preview decoder was named" in said) == (2, True)
    code, _, said, _ = run(command, *wish, "--preview-decoder", str(tmp_path / "bad.pth"))
    assert code != 0
    assert "bad.pth: " in said
    assert not path.exists()


def test_a_snapshot_keeps_its_decoder(run, tiny_stream, file, tmp_path):
    wish = {"model": tiny_stream, "device": "cpu", "engine": "local"}
    snapshot = tmp_path / "cat.snap"
    with reelray.stream("a red circle", size=(48, 32), frames=21, seed=3, preview_decoder=file, **wish) as session:
        parts = [next(session)]
        session.snapshot(snapshot)
        frame = session.position
        parts += session
    whole = np.concatenate(parts)
    with reelray.resume(snapshot, preview_decoder=file, **wish) as session:
        rest = np.concatenate([*session])
    assert np.array_equal(rest, whole[len(whole) - len(rest) :])
    assert len(rest) <= 21 - frame + 8
    code, _, said, _ = run("stream", "--from", str(snapshot), "-m", str(tiny_stream))
    assert (code, "has no preview decoder" in said) == (2, True)
    code, _, said, _ = run("stream", "--from", str(snapshot), "-m", str(tiny_stream), "--decoder", "full")
    assert (code, "--decoder was given with --from; the snapshot has settled it" in said) == (2, True)
    with reelray.stream("a red circle", size=(48, 32), frames=21, **wish) as session:
        session.snapshot(snapshot)
    code, _, said, _ = run("stream", "--from", str(snapshot), "-m", str(tiny_stream), "--preview-decoder", str(file))
    assert code == 2
    assert "the snapshot is of a stream that was decoded in full" in said
