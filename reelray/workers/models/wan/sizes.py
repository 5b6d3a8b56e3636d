"""Sizes and geometry of a Wan model from configurations alone: of a folder, or of a preset without weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reelray.proto.model_facts import ModelFacts
from reelray.proto.model_sizes import ModelSizes
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.config_files import CLIP_TOKENS
from reelray.workers.models.wan.description import facts_of, read_transformer_config
from reelray.workers.models.wan.layout import find_layout
from reelray.workers.models.wan.vae_sizes import measure_decoder
from reelray.workers.models.weight_files import count_parameters
from reelray.workers.recipes.presets import Preset, read_json

UMT5_PARAMETERS = 5_680_910_336
CLIP_PARAMETERS = 632_076_800
"""Vision tower of the CLIP that Wan's image-to-video models read."""
FP16_BYTES = 2


def measure_checkpoint(folder: Path) -> ModelSizes:
    """Tell the sizes of a checkpoint's networks.

    Raises:
        UnknownModelError: There is no such folder.
        CheckpointError: It is not a Wan2.1 checkpoint, or a part is missing or damaged.
    """
    layout = find_layout(folder)
    config = read_transformer_config(layout)
    return gather_sizes(
        config,
        read_json(layout.complete.folder / "vae" / "config.json"),
        text_encoder=sum(_count(file) for file in layout.complete.weights["text_encoder"]),
    )


def describe_preset(preset: Preset) -> tuple[ModelFacts, ModelSizes]:
    """Geometry and sizes of the model a preset is made for."""
    config = WanConfig.from_diffusers(preset.transformer)
    facts = facts_of(config, {}, preset.recipe, task=preset.recipe.task, parameters=count_transformer(config))
    return facts, gather_sizes(config, {}, text_encoder=UMT5_PARAMETERS)


def gather_sizes(config: WanConfig, vae: Mapping[str, Any], *, text_encoder: int) -> ModelSizes:
    """Put sizes together.

    Args:
        config: The transformer.
        vae: The VAE's `config.json`; empty means Wan2.1's.
        text_encoder: Its parameters.
    """
    decoder = measure_decoder(vae)
    return ModelSizes(
        heads=config.num_attention_heads,
        ffn_dim=config.ffn_dim,
        image_tokens=CLIP_TOKENS if config.is_i2v else 0,
        text_encoder_parameters=text_encoder,
        image_encoder_parameters=CLIP_PARAMETERS if config.is_i2v else 0,
        decoder_parameters=decoder.parameters,
        decoder_flops=decoder.flops,
        decoder_first_flops=decoder.first_flops,
        decoder_state_bytes=decoder.state_bytes,
        decoder_frame_bytes=decoder.frame_bytes,
    )


def count_transformer(config: WanConfig) -> int:
    """Count the parameters that the configuration implies."""
    dim, ffn = config.dim, config.ffn_dim
    square, norm = dim * (dim + 1), dim
    self_attention = 4 * square + 2 * norm
    cross_attention = 4 * square + 2 * norm + (2 * square + norm if config.is_i2v else 0)
    feed_forward = 2 * dim * ffn + ffn + dim
    cross_norm = 2 * dim if config.cross_attn_norm else 0
    block = self_attention + cross_attention + feed_forward + cross_norm + 6 * dim
    cell = config.patch_size[0] * config.patch_size[1] * config.patch_size[2]
    patch = dim * (config.in_channels * cell + 1)
    text = dim * (config.text_dim + 1) + square
    time = dim * (config.freq_dim + 1) + square + 6 * square
    image = 0
    if config.image_dim is not None:
        image = (
            2 * config.image_dim + config.image_dim * (config.image_dim + 1) + dim * (config.image_dim + 1) + 2 * dim
        )
    head = config.out_channels * cell * (dim + 1) + 2 * dim
    return config.num_layers * block + patch + text + time + image + head


def _count(file: Path) -> int:
    if file.suffix == ".safetensors":
        return count_parameters(file)
    return file.stat().st_size // FP16_BYTES  # the original release stores bf16
