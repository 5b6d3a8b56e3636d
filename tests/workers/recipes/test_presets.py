"""Shipped presets, and how folders find them."""

import json
from pathlib import Path

import pytest

from reelray.proto.errors import CheckpointError
from reelray.proto.recipe import Prediction, Schedule, Solver
from reelray.workers.recipes.presets import find_preset_for, presets
from reelray.workers.recipes.scheduler_config import adapt_schedule

WAN_1B = {"num_attention_heads": 12, "attention_head_dim": 128, "num_layers": 30, "in_channels": 16, "image_dim": None}
WAN_14B = {"num_attention_heads": 40, "attention_head_dim": 128, "num_layers": 40, "in_channels": 16}
LICENCES = {
    **dict.fromkeys(("memflow-1.3b", "krea-realtime-14b", "causvid-1.3b"), "CC-BY-NC-SA-4.0"),
    "rolling-forcing-1.3b": "Tencent RollingForcing (academic use only)",
    "streamdiffusion-v2-1.3b": "CC-BY-NC-SA-4.0",
    "skyreels-v2-df-14b": "Skywork Community License",
    "skyreels-v2-df-async-14b": "Skywork Community License",
}
I2V = {"in_channels": 36, "image_dim": 1280}


def write_folder(folder: Path, config: dict, scheduler: dict | None = None) -> Path:
    (folder / "transformer").mkdir(parents=True)
    config = {"_class_name": "WanTransformer3DModel"} | config
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    if scheduler:
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


def unipc(shift: float) -> dict:
    return {"_class_name": "UniPCMultistepScheduler", "flow_shift": shift, "prediction_type": "flow_prediction"}


def test_presets_hold_the_published_values() -> None:
    found = presets()
    assert {name for name, recipe in found.items() if recipe.memory is None} == {
        "wan2.1-t2v-1.3b",
        "wan2.1-t2v-14b",
        "wan2.1-i2v-14b-480p",
        "wan2.1-i2v-14b-720p",
        "skyreels-v2-df-14b",
        "skyreels-v2-df-async-14b",
    }
    small = found["wan2.1-t2v-1.3b"]
    assert (small.schedule.solver, small.schedule.steps, small.guidance.scale) == (Solver.UNIPC, 50, 6.0)
    assert (small.defaults.width, small.defaults.height, small.defaults.frames, small.defaults.fps) == (
        832,
        480,
        81,
        16,
    )
    assert found["wan2.1-i2v-14b-480p"].schedule.shift == 3.0
    assert found["wan2.1-i2v-14b-720p"].schedule.shift == 5.0
    for name, recipe in found.items():
        assert recipe.name == name
        assert recipe.licence == LICENCES.get(name, "Apache-2.0")
        assert recipe.text_tokens == 512
        assert (len(recipe.defaults.negative_prompt) > 100) is recipe.guidance.needs_unconditional
        assert recipe.task == ("i2v" if "i2v" in name else "t2v")


@pytest.mark.parametrize(
    ("config", "scheduler", "name"),
    [
        (WAN_1B, unipc(3.0), "wan2.1-t2v-1.3b"),
        (WAN_14B, unipc(3.0), "wan2.1-t2v-14b"),
        (WAN_14B | I2V, unipc(3.0), "wan2.1-i2v-14b-480p"),
        (WAN_14B | I2V, unipc(5.0), "wan2.1-i2v-14b-720p"),
    ],
)
def test_a_diffusers_folder_finds_its_preset(tmp_path: Path, config: dict, scheduler: dict, name: str) -> None:
    recipe = find_preset_for(write_folder(tmp_path / "x", config, scheduler))
    assert recipe is not None
    assert recipe.name == name
    assert recipe.schedule.shift == scheduler["flow_shift"]


def test_an_original_folder_finds_its_preset(tmp_path: Path) -> None:
    config = {"_class_name": "WanModel", "model_type": "t2v", "dim": 1536, "num_layers": 30, "in_dim": 16}
    (tmp_path / "config.json").write_text(json.dumps(config))
    recipe = find_preset_for(tmp_path)
    assert recipe is not None
    assert recipe.name == "wan2.1-t2v-1.3b"
    assert recipe.schedule.shift == 8.0
    folder = tmp_path / "Wan2.1-I2V-14B-720P"
    folder.mkdir()
    config |= {"model_type": "i2v", "dim": 5120, "num_layers": 40, "in_dim": 36}
    (folder / "config.json").write_text(json.dumps(config))
    found = find_preset_for(folder)
    assert found is not None
    assert found.name == "wan2.1-i2v-14b-720p"


def test_an_unknown_size_has_no_preset(tmp_path: Path) -> None:
    assert find_preset_for(write_folder(tmp_path / "x", WAN_1B | {"num_layers": 31})) is None
    assert find_preset_for(tmp_path / "nowhere") is None


def test_broken_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not a readable JSON file"):
        find_preset_for(tmp_path)


def test_a_scheduler_config_decides_solver_shift_and_prediction() -> None:
    base = Schedule(steps=7, shift=8.0)
    euler = adapt_schedule(base, {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 2.5})
    assert euler == Schedule(solver=Solver.EULER, steps=7, shift=2.5)
    config = {"_class_name": "DPMSolverMultistepScheduler", "flow_shift": 3, "prediction_type": "epsilon"}
    assert adapt_schedule(base, config) == Schedule(
        solver=Solver.DPMPP, steps=7, shift=3, prediction=Prediction.EPSILON
    )
    assert adapt_schedule(base, {}) == base


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"_class_name": "PNDMScheduler"}, "`_class_name` is PNDMScheduler; served: UniPCMultistepScheduler"),
        (unipc(3) | {"prediction_type": "score"}, "`prediction_type` is score; served: flow_prediction"),
        (unipc(3) | {"use_flow_sigmas": False}, "`use_flow_sigmas` is False; served: True"),
        (unipc(3) | {"solver_order": 3}, "`solver_order` is 3; served: 2"),
        (unipc(3) | {"solver_type": "bh1"}, "`solver_type` is 'bh1'; served: bh2 or midpoint"),
        (unipc(0), "shift is 0; a number above 0"),
        (unipc(3) | {"flow_shift": "x"}, "shift is 'x'; a number above 0"),
    ],
)
def test_a_scheduler_that_is_not_served_is_told(config: dict, told: str) -> None:
    with pytest.raises(CheckpointError, match=r"scheduler_config\.json") as caught:
        adapt_schedule(Schedule(), config)
    assert told in caught.value.message
