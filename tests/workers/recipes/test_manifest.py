"""`manifest.yaml`: what is read, and how every mistake is told."""

from pathlib import Path

import pytest
import yaml

from reelray.proto.chunking import Chunking
from reelray.proto.errors import ManifestError
from reelray.proto.recipe import Defaults, Guidance, Prediction, Recipe, Schedule, Solver
from reelray.workers.recipes.manifest import parse_manifest, read_manifest, read_weights
from reelray.workers.recipes.weights_section import LoraSection, WeightsSection
from tests.support.tiny_checkpoint import tiny_manifest


def refuse(data: object) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(data, source="m.yaml")
    return caught.value.message.split("\n")


def test_every_field_of_a_recipe_can_be_written() -> None:
    data = {
        "name": "student",
        "model": "wan",
        "task": "i2v",
        "schedule": {
            "solver": "x0_renoise",
            "steps": 4,
            "timesteps": [1000, 750, 500, 250],
            "shift": 5,
            "warp": True,
            "prediction": "x0",
        },
        "guidance": {"scale": 1, "per_step": [3.5, 1], "interval": [0.2, 0.8]},
        "chunking": {"latent_frames": 3, "first_latent_frames": 1},
        "defaults": {"width": 64, "height": 48, "frames": 5, "fps": 8, "negative_prompt": "blurry"},
        "text_tokens": 32,
        "decoder": "wan_exact_stream",
        "licence": "CC-BY-4.0",
    }
    assert parse_manifest(data, source="m.yaml") == Recipe(
        name="student",
        task="i2v",
        schedule=Schedule(
            solver=Solver.X0_RENOISE,
            steps=4,
            timesteps=(1000, 750, 500, 250),
            shift=5,
            warp=True,
            prediction=Prediction.X0,
        ),
        guidance=Guidance(scale=1, per_step=(3.5, 1), interval=(0.2, 0.8)),
        chunking=Chunking(latent_frames=3, first_latent_frames=1),
        defaults=Defaults(width=64, height=48, frames=5, fps=8, negative_prompt="blurry"),
        text_tokens=32,
        licence="CC-BY-4.0",
    )


def test_only_the_name_is_needed() -> None:
    assert parse_manifest({"name": "n"}, source="m.yaml") == Recipe(name="n")
    assert refuse({}) == ["m.yaml: field `name` is missing"]


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text(yaml.safe_dump(tiny_manifest("t2v")))
    assert read_manifest(path).schedule.steps == 3


def test_the_weights_section_is_read_beside_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "manifest.yaml"
    lora = {"path": "/loras/l.pt", "key": "generator_lora", "alpha": 256, "strength": 0.5}
    weights = {"base": "../base", "transformer": "dmd.pt", "key": "generator_ema", "lora": lora}
    path.write_text(yaml.safe_dump(tiny_manifest("t2v") | {"weights": weights}))
    assert read_weights(path) == WeightsSection(
        base=tmp_path / "../base",
        transformer=tmp_path / "dmd.pt",
        key="generator_ema",
        lora=LoraSection(path=Path("/loras/l.pt"), key="generator_lora", alpha=256, strength=0.5),
    )
    assert read_manifest(path) == parse_manifest(tiny_manifest("t2v"), source="m.yaml")
    path.write_text(yaml.safe_dump(tiny_manifest("t2v")))
    assert read_weights(path) is None
    assert read_weights(tmp_path / "none.yaml") is None


def test_a_wrong_choice_names_file_field_value_and_choices() -> None:
    assert refuse({"name": "n", "schedule": {"solver": "foo"}}) == [
        "m.yaml: field `schedule.solver` is 'foo'; allowed: euler, unipc, dpm++, x0_renoise, lcm"
    ]
    assert refuse({"name": "n", "task": "v2v"}) == ["m.yaml: field `task` is 'v2v'; allowed: t2v, i2v"]


def test_an_unknown_field_gets_a_suggestion() -> None:
    (line,) = refuse({"name": "n", "schedule": {"shfit": 3}})
    assert line.startswith("m.yaml: field `schedule.shfit` is not known; did you mean `shift`? allowed: solver, steps,")
    (line,) = refuse({"name": "n", "zzz": 3})
    assert line.startswith("m.yaml: field `zzz` is not known; allowed: name, model,")


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"schedule": {"steps": "many"}}, "field `schedule.steps` is 'many'; allowed: a valid integer"),
        ({"schedule": {"steps": True}}, "field `schedule.steps` is True; allowed: a valid integer"),
        ({"schedule": {"steps": 2.5}}, "field `schedule.steps` is 2.5; allowed: a valid integer"),
        ({"schedule": {"steps": 0}}, "field `schedule`: steps is 0; it must be at least 1"),
        ({"schedule": {"shift": float("nan")}}, "field `schedule.shift` is nan; allowed: a finite number"),
        ({"schedule": None}, "field `schedule` is None; allowed: "),
        ({"schedule": {"timesteps": [500, 1000]}}, "field `schedule`: timesteps holds [500.0, 1000.0]"),
        ({"guidance": {"interval": [0.9, 0.1]}}, "field `guidance`: interval is (0.9, 0.1)"),
        ({"guidance": {"interval": [0.1]}}, "field `guidance.interval"),
        ({"defaults": {"width": 0}}, "field `defaults.width` is 0; it must be at least 1"),
        ({"weights": {"transformer": "a.pt"}}, "field `weights.base` is missing"),
        ({"weights": {"base": 3, "transformer": "a.pt"}}, "field `weights.base` is 3; allowed: a valid string"),
        (
            {"weights": {"base": "b", "transfomer": "a.pt"}},
            "field `weights.transfomer` is not known; did you mean `transformer`? allowed: base, ",
        ),
        (
            {"weights": {"base": "b", "transformer": "a.pt", "key": "ema"}},
            "field `weights.key` is 'ema'; allowed: generator, generator_ema, model",
        ),
        ({"weights": {"base": "b", "lora": {}}}, "field `weights.lora.path` is missing"),
        (
            {"weights": {"base": "b", "lora": {"path": "l.pt", "rank": 4}}},
            "field `weights.lora.rank` is not known; allowed: path, key, alpha, strength",
        ),
        (
            {"weights": {"base": "b", "lora": {"path": "l.pt", "alpha": 0}}},
            "field `weights`: lora.alpha is 0.0; it must",
        ),
        ({"weights": {"base": "b"}}, "field `weights`: neither transformer nor lora is named"),
        ({"weights": None}, "field `weights` is None; allowed: "),
        ({"name": 7}, "field `name` is 7; allowed: a valid string"),
    ],
)
def test_a_wrong_value_is_told_in_one_line(section: dict, line: str) -> None:
    (told,) = refuse({"name": "n"} | section)
    assert told.startswith(f"m.yaml: {line}")


def test_all_mistakes_are_told_at_once() -> None:
    lines = refuse({"schedule": {"solver": "foo", "steps": "many"}, "defaults": {"fsp": 3}})
    assert len(lines) == 4
    assert all(line.startswith("m.yaml: field `") for line in lines)
    assert len(refuse({"name": "n", "schedule": {"steps": 0}, "chunking": {"latent_frames": 0}})) == 2


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_anything_but_a_mapping_is_refused(data: object) -> None:
    (line,) = refuse(data)
    assert "a mapping of fields" in line


def test_broken_yaml_names_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text("name: n\nschedule: {solver: unipc\ntask: t2v\n")
    with pytest.raises(ManifestError, match=r"manifest\.yaml: not valid YAML: line 3, column"):
        read_manifest(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="not a YAML text file in UTF-8"):
        read_manifest(path)
    with pytest.raises(ManifestError, match="cannot be read: No such file"):
        read_manifest(tmp_path / "none.yaml")


def test_a_long_value_is_cut() -> None:
    (line,) = refuse({"name": "n", "task": "x" * 5000})
    assert len(line) < 200
