"""Recipes that come with the package, and how a bare folder of weights finds its own.

A preset file has three parts: `recipe`, a manifest; `match`, a list of facts of which one must hold: values of the
transformer's `config.json`, of the scheduler's, and a word in the folder's name; and `transformer`, the sizes of that
`config.json`, so that a render can be planned where the weights are not.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from reelray.proto.errors import CheckpointError
from reelray.proto.recipe import Recipe
from reelray.workers.recipes.manifest import parse_manifest
from reelray.workers.recipes.scheduler_config import adapt_schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A recipe and the facts that tell its checkpoints.

    Args:
        recipe: The recipe.
        match: Alternatives; each maps ``config`` and ``scheduler`` to wanted values, ``folder`` to a word.
        transformer: Size of the transformer, in the words of its `config.json`.
    """

    recipe: Recipe
    match: tuple[Mapping[str, Any], ...]
    transformer: Mapping[str, Any]


def presets() -> dict[str, Recipe]:
    """Recipes of the package by name."""
    return {preset.recipe.name: preset.recipe for preset in load_presets()}


@cache
def load_presets() -> tuple[Preset, ...]:
    """Read every preset file of the package, once in a process."""
    folder = resources.files("reelray.workers.recipes") / "preset_files"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return tuple(_parse_preset(file.name, file.read_text(encoding="utf-8")) for file in files)


def find_preset_for(folder: Path) -> Recipe | None:
    """Find the preset of a checkpoint folder without a manifest.

    The folder's own `scheduler/scheduler_config.json`, where there is one, decides solver and shift.

    Args:
        folder: diffusers layout (`transformer/config.json`) or original layout (`config.json`).

    Returns:
        The recipe, or None when no preset matches.

    Raises:
        CheckpointError: A JSON file of the folder is not readable.
    """
    config = read_json(folder / "transformer" / "config.json") or read_json(folder / "config.json")
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    fitting = [
        (len(facts.get("folder", "")), preset.recipe)
        for preset in load_presets()
        for facts in preset.match
        if _holds(facts, config, scheduler, folder.name)
    ]
    if not fitting:
        return None
    # The longest word says most: `causal-forcing-2step` is a `causal-forcing` too.
    _, recipe = max(fitting, key=lambda pair: pair[0])
    if recipe.schedule.timesteps:
        return recipe  # a distilled step list goes with its own solver, whatever scheduler the base came with
    return dataclasses.replace(recipe, schedule=adapt_schedule(recipe.schedule, scheduler))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing file is an empty one.

    Raises:
        CheckpointError: The file holds no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable JSON file: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: holds a {type(data).__name__}; a JSON object is needed")
    return data


def _parse_preset(name: str, text: str) -> Preset:
    data = yaml.safe_load(text)
    recipe = parse_manifest(data["recipe"], source=name)
    return Preset(recipe=recipe, match=tuple(data["match"]), transformer=data["transformer"])


def _holds(facts: Mapping[str, Any], config: Mapping[str, Any], scheduler: Mapping[str, Any], folder: str) -> bool:
    wanted_config, wanted_scheduler = facts.get("config", {}), facts.get("scheduler", {})
    return (
        all(config.get(key) == value for key, value in wanted_config.items())
        and all(scheduler.get(key) == value for key, value in wanted_scheduler.items())
        and facts.get("folder", "") in folder.lower()
    )
