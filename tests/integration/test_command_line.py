"""The real command with a real, tiny checkpoint: through Ray, and in one process from Python."""

import json

import numpy as np

from reelray.cluster.python_api import LocalClient
from reelray.cluster.services import default_services
from tests.support.commands import start_process

CODE = """
from reelray.cluster.cli import main
sys.exit(main(sys.argv[1:]))
"""
WISH = {"seed": 3, "frames": 5, "size": "32x32", "steps": 2}


def test_command_through_ray_makes_the_frames_of_the_python_api(tiny_t2v, tmp_path):
    options = [f"--{name}={value}" for name, value in WISH.items()]
    arguments = ["render", "red circle", "--model", str(tiny_t2v), "-o", "a.npy", "--json", *options]
    with start_process(CODE, tmp_path, *arguments) as process:
        out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    said = json.loads(out)
    assert (said["frames"], said["seed"], said["steps"]) == (5, 3, 2)
    assert said["seconds"]["start"] >= said["seconds"]["load"] > 0

    video = LocalClient(default_services()).render("red circle", {**WISH, "model": str(tiny_t2v), "engine": "local"})
    assert np.array_equal(np.load(tmp_path / "a.npy"), video.frames)
    assert video.summary.model_digest == said["model_digest"]
