"""The size of a Wan transformer from `config.json` of either release, or from the shapes of its weights."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reelray.proto.errors import WeightsError
from reelray.workers.models.wan.config import WanConfig

HEAD_DIM = 128
CLIP_DIM = 1280
CLIP_TOKENS = 257
TASKS = ("t2v", "i2v", "flf2v")


def read_config(path: Path) -> WanConfig | None:
    """Read the `config.json` of a checkpoint folder, or beside a weight file.

    Returns:
        The size, or None where there is no such file.

    Raises:
        WeightsError: The file is damaged or describes a model that is not ours.
    """
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text())
        if not isinstance(values, dict):
            raise WeightsError(f"{file}: holds no JSON object")
        if "num_attention_heads" in values:
            return WanConfig.from_diffusers(values)
        if "num_heads" in values:
            return config_of_original(values)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise WeightsError(f"{file}: is not JSON; download the file again") from error
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{file}: {error}") from error
    raise WeightsError(f"{file}: is not a Wan transformer's; it has neither num_attention_heads nor num_heads")


def config_of_original(values: Mapping[str, Any]) -> WanConfig:
    """Translate the `config.json` of the original release.

    Raises:
        ValueError: `model_type` is not one this model implements.
        KeyError: A size is missing.
    """
    task = values.get("model_type", "t2v")
    if task not in TASKS:
        raise ValueError(f"model_type is {task!r}; it must be one of {', '.join(TASKS)}")
    dim, heads = int(values["dim"]), int(values["num_heads"])
    with_image = task != "t2v"
    return WanConfig(
        patch_size=tuple(values.get("patch_size", (1, 2, 2))),
        num_attention_heads=heads,
        attention_head_dim=dim // heads,
        in_channels=values.get("in_dim", 16),
        out_channels=values.get("out_dim", 16),
        text_dim=values.get("text_dim", 4096),
        freq_dim=values.get("freq_dim", 256),
        ffn_dim=values["ffn_dim"],
        num_layers=values["num_layers"],
        cross_attn_norm=values.get("cross_attn_norm", True),
        eps=values.get("eps", 1e-6),
        image_dim=CLIP_DIM if with_image else None,
        added_kv_proj_dim=dim if with_image else None,
        pos_embed_seq_len=2 * CLIP_TOKENS if task == "flf2v" else None,
    )


def config_of_shapes(shapes: Mapping[str, tuple[int, ...]], path: Path) -> WanConfig:
    """Infer the size from the weights; heads are taken to be 128 wide, as in every released Wan.

    Args:
        shapes: Shape by canonical name.
        path: What to call the checkpoint in an error.

    Raises:
        WeightsError: The weights are not a Wan transformer's, or not of a released width.
    """
    sizes = sizes_of_shapes(shapes, path)
    dim = sizes.pop("dim")
    if dim % HEAD_DIM:
        raise WeightsError(f"{path}: width {dim} is no multiple of {HEAD_DIM}; put a config.json beside the weights")
    return WanConfig(
        **sizes,
        num_attention_heads=dim // HEAD_DIM,
        attention_head_dim=HEAD_DIM,
        added_kv_proj_dim=dim if sizes["image_dim"] else None,
    )


def sizes_of_shapes(shapes: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, Any]:
    """Read every size off the weights that does not depend on the width of a head.

    Args:
        shapes: Shape by canonical name.
        path: What to call the checkpoint in an error.

    Returns:
        Values by name of `WanConfig`'s attribute.

    Raises:
        WeightsError: The weights are not a Wan transformer's.
    """
    try:
        dim, in_channels, *patch = shapes["patch_embedding.weight"]
        text = shapes["condition_embedder.text_embedder.linear_1.weight"][1]
        freq = shapes["condition_embedder.time_embedder.linear_1.weight"][1]
        ffn = shapes["blocks.0.ffn.net.0.proj.weight"][0]
        out = shapes["proj_out.weight"][0]
    except KeyError as error:
        raise WeightsError(f"{path}: tensor {error.args[0]} is missing; not a Wan transformer") from None
    if len(patch) != 3:
        raise WeightsError(f"{path}: patch_embedding.weight has {len(patch)} spatial sides; not a Wan transformer")
    image = shapes.get("condition_embedder.image_embedder.norm1.weight")
    positions = shapes.get("condition_embedder.image_embedder.pos_embed")
    layers = [int(match[1]) for name in shapes if (match := re.match(r"blocks\.(\d+)\.", name))]
    return {
        "dim": dim,
        "num_layers": max(layers) + 1,
        "in_channels": in_channels,
        "out_channels": out // (patch[0] * patch[1] * patch[2]),
        "patch_size": (patch[0], patch[1], patch[2]),
        "text_dim": text,
        "freq_dim": freq,
        "ffn_dim": ffn,
        "cross_attn_norm": "blocks.0.norm2.weight" in shapes,
        "image_dim": image[0] if image else None,
        "pos_embed_seq_len": positions[1] if positions else None,
    }
