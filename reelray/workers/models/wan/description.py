"""What a Wan checkpoint is, told from its configurations and file headers, without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reelray.proto.decoder import Decoder
from reelray.proto.errors import ManifestError, SizeError
from reelray.proto.model_facts import ModelFacts
from reelray.proto.recipe import Recipe, Schedule
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.config_files import read_config
from reelray.workers.models.wan.layout import Layout, find_layout
from reelray.workers.models.weight_files import count_parameters
from reelray.workers.recipes.manifest import FILE_NAME, read_manifest
from reelray.workers.recipes.presets import find_preset_for, read_json
from reelray.workers.recipes.scheduler_config import adapt_schedule

FAMILY = "wan"
VAE_DEFAULTS: Mapping[str, Any] = {"z_dim": 16, "dim_mult": (1, 2, 4, 4), "temperal_downsample": (False, True, True)}


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointDescription:
    """Facts of a checkpoint.

    Args:
        folder: Where it lies.
        layout: ``diffusers``, ``original``, or ``manifest`` for one that a manifest puts together.
        recipe: How it is sampled; holds name, task and licence.
        facts: Geometry.
        parameters: Parameters by component, for those in safetensors files.
        weight_bytes: Bytes of all weight files.
    """

    folder: Path
    layout: str
    recipe: Recipe
    facts: ModelFacts
    parameters: Mapping[str, int]
    weight_bytes: int


def describe_checkpoint(folder: Path) -> CheckpointDescription:
    """Describe a checkpoint without loading its weights.

    Raises:
        UnknownModelError: There is no such folder.
        CheckpointError: It is not a Wan2.1 checkpoint, a part is missing, or a file is truncated or wrong.
    """
    layout = find_layout(folder)
    recipe = find_recipe(layout)
    parameters = {
        part: sum(count_parameters(file) for file in files)
        for part, files in layout.weights.items()
        if all(file.suffix == ".safetensors" for file in files)
    }
    facts = gather_facts(layout, recipe, count_transformer(layout))
    check_defaults(recipe, facts, layout.folder / FILE_NAME)
    return CheckpointDescription(
        folder=folder,
        layout=layout.name,
        recipe=recipe,
        facts=facts,
        parameters=parameters,
        weight_bytes=layout.weight_bytes,
    )


def count_transformer(layout: Layout) -> int:
    """Count the transformer's parameters; one that replaces a base's has the size of that.

    Raises:
        WeightsError: A file is truncated or not in safetensors format.
    """
    return sum(count_parameters(file) for file in layout.complete.weights["transformer"])


def find_recipe(layout: Layout) -> Recipe:
    """Find how a checkpoint is sampled: its manifest, else a shipped preset, else what its configurations tell.

    Raises:
        CheckpointError: The manifest or a configuration is wrong, or does not fit the weights.
    """
    manifest = layout.folder / FILE_NAME
    if manifest.is_file():
        recipe = read_manifest(manifest)
        check_recipe(recipe, layout)
        return recipe
    preset = find_preset_for(layout.folder)
    if preset is not None:
        return preset
    scheduler = read_json(layout.folder / "scheduler" / "scheduler_config.json")
    return Recipe(
        name=layout.folder.resolve().name,
        model=FAMILY,
        task=layout.task,
        schedule=adapt_schedule(Schedule(), scheduler),
    )


def check_recipe(recipe: Recipe, layout: Layout) -> None:
    """Refuse a recipe that is made for other weights.

    Raises:
        ManifestError: Model family or task is another.
    """
    source = layout.folder / FILE_NAME
    if recipe.model != FAMILY:
        raise ManifestError(f"{source}: field `model` is {recipe.model!r}; these weights are {FAMILY!r}")
    if recipe.task != layout.task:
        raise ManifestError(f"{source}: field `task` is {recipe.task!r}; the transformer is made for {layout.task!r}")


def check_defaults(recipe: Recipe, facts: ModelFacts, source: Path) -> None:
    """Refuse defaults that the model cannot make.

    Raises:
        ManifestError: Frames, width, height, or places of what is remembered do not fit the model.
    """
    defaults = recipe.defaults
    try:
        facts.latent_frames(defaults.frames)
        facts.latent_size(defaults.width, defaults.height)
    except SizeError as error:
        raise ManifestError(f"{source}: field `defaults`: {error.message}") from None
    try:
        facts.check_memory(recipe)
    except SizeError as error:
        raise ManifestError(f"{source}: {error.message}") from None


def read_transformer_config(layout: Layout) -> WanConfig:
    """Read the transformer's size.

    Raises:
        WeightsError: The configuration is not one this model implements.
    """
    config = read_config(layout.transformer)
    assert config is not None  # find_layout has seen the file
    return config


def gather_facts(layout: Layout, recipe: Recipe, parameters: int) -> ModelFacts:
    """Put together what scheduler and engine must know.

    Args:
        layout: The checkpoint.
        recipe: Tells the text slots.
        parameters: Parameters of the transformer.
    """
    facts = facts_of(
        read_transformer_config(layout),
        read_json(layout.complete.folder / "vae" / "config.json"),
        recipe,
        task=layout.task,
        parameters=parameters,
    )
    return facts if layout.preview is None else add_preview(facts)


def add_preview(facts: ModelFacts) -> ModelFacts:
    """The facts of a model that has a tiny decoder too."""
    return replace(facts, decoders=tuple(Decoder))


def facts_of(config: WanConfig, vae: Mapping[str, Any], recipe: Recipe, *, task: str, parameters: int) -> ModelFacts:
    """Put together geometry from configurations.

    Args:
        config: The transformer.
        vae: The VAE's `config.json`; what it leaves out is as in Wan2.1.
        recipe: Tells the text slots.
        task: ``t2v`` or ``i2v``.
        parameters: Of the transformer.
    """
    vae = {**VAE_DEFAULTS, **vae}
    return ModelFacts(
        family=FAMILY,
        task=task,
        latent_channels=config.out_channels,
        spatial_stride=2 ** (len(vae["dim_mult"]) - 1),
        temporal_stride=2 ** sum(vae["temperal_downsample"]),
        patch=config.patch_size,
        text_tokens=recipe.text_tokens,
        layers=config.num_layers,
        dim=config.dim,
        parameters=parameters,
        positions=config.rope_max_seq_len,
    )
