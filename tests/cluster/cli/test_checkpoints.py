"""Checkpoints with something wrong are refused by the real catalog before any engine starts."""

import json
import shutil
from dataclasses import replace

import pytest

from reelray.cluster.services import default_services
from reelray.cluster.settings import Settings


@pytest.fixture
def models(cli, tiny_t2v):
    """A folder with one good copy of the tiny checkpoint, known to the real catalog; the engine stays fake."""
    folder = cli.cwd.parent / "real-models"
    shutil.copytree(tiny_t2v, folder / "tiny")
    cli.services = replace(
        default_services(),
        load_settings=lambda: Settings(model="tiny", model_path=(folder,), data_dir=cli.cwd.parent / "data"),
        open_engine=lambda _kind, _model, _device, _placement, _residency: cli.engine,
    )
    return folder


def weights_of(models):
    return max((models / "tiny" / "transformer").glob("*.safetensors"))


def cut_in_half(models):
    path = weights_of(models)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path.name


def remove_weights(models):
    path = weights_of(models)
    path.unlink()
    return "transformer"


def remove_shard(models):
    path = weights_of(models)
    index = {"metadata": {}, "weight_map": {"a": path.name, "b": "second-00002.safetensors"}}
    (path.parent / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    return "second-00002.safetensors"


def remove_config(models):
    (models / "tiny" / "transformer" / "config.json").unlink()
    return "config.json"


def spoil_config(models):
    (models / "tiny" / "transformer" / "config.json").write_text("{")
    return "config.json"


def misspell_field(models):
    path = models / "tiny" / "manifest.yaml"
    path.write_text(path.read_text() + "\nlicense: MIT\n")
    return "license"


def remove_text_encoder(models):
    shutil.rmtree(models / "tiny" / "text_encoder")
    return "text_encoder"


def test_good_one_renders(cli, models):
    assert cli.run("render", "red circle", "-o", "a.npy").code == 0
    assert str(models / "tiny") in cli.run("models").out


@pytest.mark.parametrize(
    "damage",
    [cut_in_half, remove_weights, remove_shard, remove_config, spoil_config, misspell_field, remove_text_encoder],
    ids=lambda damage: damage.__name__,
)
def test_damage_is_named(cli, models, damage):
    name = damage(models)
    ran = cli.run("render", "red circle", "-o", "a.npy")
    assert ran.code == 3, ran.err
    assert ran.err.count("\n") == 1
    assert ran.error_lines
    assert name in ran.err
    assert not cli.engine.requests
    assert cli.files() == []
    listed = json.loads(cli.run("models", "--json").out)
    assert name in next(model["problem"] for model in listed if model["name"] == "tiny")


@pytest.mark.usefixtures("models")
def test_folder_that_is_no_checkpoint(cli):
    (cli.cwd / "photos").mkdir()
    ran = cli.run("render", "red circle", "--model", "./photos", "-o", "a.npy")
    assert ran.code == 3
    assert "not a checkpoint" in ran.error_lines[0]


@pytest.mark.usefixtures("models")
def test_known_preset_without_weights(cli):
    ran = cli.run("render", "red circle", "--model", "wan2.1-t2v-1.3b", "-o", "a.npy")
    assert ran.code == 2
    assert "weights are not here" in ran.error_lines[0]
