"""A folder of a manifest and a `.pt` file, through the real catalog and the real engine."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from reelray.cluster.services import default_services
from reelray.cluster.settings import Settings
from tests.support.tiny_checkpoint import write_tiny_checkpoint
from tests.support.tiny_student import FILE, write_tiny_student

WISHES = ("--frames", 5, "--size", "32x32", "--steps", 2, "--seed", 3, "--json")


@pytest.fixture
def models(cli, tmp_path):
    """`base`, `whole`, which has another transformer, and `student`, whose file holds that of `whole`."""
    folder = tmp_path / "real-models"
    write_tiny_checkpoint(folder / "base")
    write_tiny_checkpoint(folder / "other", seed=5)
    shutil.copytree(folder / "base", folder / "whole")
    shutil.rmtree(folder / "whole" / "transformer")
    shutil.copytree(folder / "other" / "transformer", folder / "whole" / "transformer")
    write_tiny_student(folder / "student", folder / "base", folder / "whole")
    settings = Settings(model="student", model_path=(folder,), data_dir=tmp_path / "data", engine="local")
    cli.services = replace(default_services(), load_settings=lambda: settings)
    return folder


def render(cli, model):
    ran = cli.run("render", "a red circle", "--model", model, "-o", f"{model}.npy", *WISHES)
    assert ran.code == 0, ran.err
    return np.load(cli.cwd / f"{model}.npy"), json.loads(ran.out)


@pytest.mark.usefixtures("models")
def test_the_same_weights_give_the_same_video(cli):
    (student, said), (whole, other) = render(cli, "student"), render(cli, "whole")
    assert np.array_equal(student, whole)
    assert not np.array_equal(student, render(cli, "base")[0])
    assert said["model_digest"] != other["model_digest"]


def test_it_is_listed(cli, models):
    listed = {model["name"]: model for model in json.loads(cli.run("models", "--json").out)}
    assert "problem" not in listed["student"] or not listed["student"]["problem"]
    assert listed["student"]["path"] == str(models / "student")


@pytest.mark.parametrize("missing", ["file", "base"])
def test_what_is_missing_is_told_before_the_engine_starts(cli, models, missing):
    path = models / "student" / FILE if missing == "file" else models / "base"
    (path.unlink if missing == "file" else lambda: shutil.rmtree(path))()
    ran = cli.run("render", "a red circle", "-o", "a.npy", *WISHES)
    assert (ran.code, len(ran.error_lines)) == (3, 1)
    assert path.name in ran.error_lines[0]
    assert cli.files() == []
    listed = json.loads(cli.run("models", "--json").out)
    assert path.name in next(model["problem"] for model in listed if model["name"] == "student")


def test_a_wrong_key_is_one_line(cli, models):
    manifest = models / "student" / "manifest.yaml"
    manifest.write_text(manifest.read_text().replace("generator_ema", "model"))
    ran = cli.run("render", "a red circle", "-o", "a.npy", *WISHES)
    assert (ran.code, len(ran.error_lines)) == (3, 1)
    assert "it holds generator, generator_ema" in ran.error_lines[0]
    assert cli.files() == []
