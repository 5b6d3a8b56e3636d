"""Which Wan model a benchmark measures, told without torch: a preset's, a checkpoint's, or a tiny one."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reelray.workers.bench.case import BenchSource
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.description import (
    FAMILY,
    facts_of,
    find_recipe,
    gather_facts,
    read_transformer_config,
)
from reelray.workers.models.wan.description import count_transformer as count_stored
from reelray.workers.models.wan.layout import find_layout
from reelray.workers.models.wan.sizes import UMT5_PARAMETERS, count_transformer, gather_sizes, measure_checkpoint
from reelray.workers.recipes.presets import Preset, read_json

TINY_TRANSFORMER: Mapping[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 24,
    "ffn_dim": 160,
    "num_layers": 2,
    "text_dim": 32,
    "freq_dim": 32,
}
TINY_VAE: Mapping[str, Any] = {"base_dim": 8, "num_res_blocks": 1}
TINY_TEXT_TOKENS = 16


def source_of_preset(preset: Preset, *, tiny: bool = False) -> BenchSource:
    """The model of a preset, whose weights need not be here.

    Args:
        preset: The preset.
        tiny: Shrink every network, so that a CPU measures it in a moment.
    """
    transformer, vae, recipe = dict(preset.transformer), dict[str, Any](), preset.recipe
    if tiny:
        transformer, vae = {**transformer, **TINY_TRANSFORMER}, dict(TINY_VAE)
        if transformer.get("added_kv_proj_dim") is not None:
            # Text keeps its slots: diffusers takes the last 512 tokens for text, whatever the image has.
            transformer["added_kv_proj_dim"] = transformer["num_attention_heads"] * transformer["attention_head_dim"]
        else:
            recipe = replace(recipe, text_tokens=TINY_TEXT_TOKENS)
    config = WanConfig.from_diffusers(transformer)
    return BenchSource(
        family=FAMILY,
        transformer=config.to_diffusers(),
        vae=vae,
        folder=None,
        facts=facts_of(config, vae, recipe, task=recipe.task, parameters=count_transformer(config)),
        sizes=gather_sizes(config, vae, text_encoder=UMT5_PARAMETERS),
    )


def source_of_checkpoint(folder: Path) -> BenchSource:
    """The model of a checkpoint folder.

    Raises:
        UnknownModelError: There is no such folder.
        CheckpointError: It is not a Wan2.1 checkpoint, or a part is missing or damaged.
    """
    layout = find_layout(folder)
    return BenchSource(
        family=FAMILY,
        transformer=read_transformer_config(layout).to_diffusers(),
        vae=read_json(layout.complete.folder / "vae" / "config.json"),
        folder=folder.absolute(),
        facts=gather_facts(layout, find_recipe(layout), count_stored(layout)),
        sizes=measure_checkpoint(folder),
    )
