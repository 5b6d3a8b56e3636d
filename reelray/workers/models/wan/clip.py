"""The CLIP vision tower that shows an i2v model its first frame, inference only.

Wan reads the hidden states before the last layer, so the last layer, its norm and the projection are never built.

Shape suffixes: B batch, S tokens, N heads, D head width, C channels, H/W pixels.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reelray.proto.errors import CheckpointError
from reelray.workers.models.weight_loading import Stack, load_module
from reelray.workers.residency.source import BlockSource, ResidentBlocks

PREPROCESS_MEAN = (0.48145466, 0.4578275, 0.40821073)
PREPROCESS_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipConfig:
    """Size of a CLIP vision tower; the defaults are the ViT-H/14 of Wan2.1.

    Args:
        hidden_size: Width of the residual stream.
        intermediate_size: Hidden width of the feed-forward.
        num_hidden_layers: Layers in the checkpoint; one less is run.
        num_attention_heads: Heads.
        image_size: Pixels per side of the square input.
        patch_size: Pixels per side of a patch.
        layer_norm_eps: Epsilon of every norm.
        framing: How an image becomes square: ``crop`` cuts the middle out of the resized image, as diffusers does;
            ``stretch`` squeezes all of it, as the original release does.
    """

    hidden_size: int = 1280
    intermediate_size: int = 5120
    num_hidden_layers: int = 32
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    layer_norm_eps: float = 1e-5
    framing: Literal["crop", "stretch"] = "crop"

    def __post_init__(self) -> None:
        if self.framing not in {"crop", "stretch"}:
            raise ValueError(f"framing is {self.framing!r}; allowed: crop, stretch")

    @property
    def tokens(self) -> int:
        """Class token and patches."""
        return 1 + (self.image_size // self.patch_size) ** 2

    @classmethod
    def from_transformers(cls, values: Mapping[str, Any]) -> Self:
        """Read a transformers `config.json` of a vision tower, or of a whole CLIP.

        Raises:
            CheckpointError: The activation is not GELU, or a size is missing.
        """
        values = values.get("vision_config", values)
        if values.get("hidden_act", "gelu") != "gelu":
            raise CheckpointError(f"image_encoder/config.json: hidden_act is {values['hidden_act']}; served: gelu")
        optional = {"layer_norm_eps", "framing"}
        missing = [name for name in cls.__dataclass_fields__ if name not in values and name not in optional]
        if missing:
            raise CheckpointError(f"image_encoder/config.json: field `{missing[0]}` is missing")
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})


class ClipLayer(nn.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.layer_norm1 = nn.LayerNorm(width, config.layer_norm_eps)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.layer_norm2 = nn.LayerNorm(width, config.layer_norm_eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)

    def forward(self, x_BSC: Tensor) -> Tensor:
        """Run the layer."""
        normed = self.layer_norm1(x_BSC)
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (linear(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear in projections)
        x_BSC = x_BSC + self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        fed: Tensor = self.fc2(F.gelu(self.fc1(self.layer_norm2(x_BSC))))
        return x_BSC + fed


class ClipVision(nn.Module):
    """Pixels to the hidden states before the last layer.

    Args:
        config: Size of the model.

    Attributes:
        source: Hands out the layers.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.class_embedding = nn.Parameter(torch.zeros(config.hidden_size))
        self.patch_embedding = nn.Conv2d(3, config.hidden_size, config.patch_size, config.patch_size, bias=False)
        self.position_embedding = nn.Embedding(config.tokens, config.hidden_size)
        self.pre_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.layers = nn.ModuleList([ClipLayer(config) for _ in range(config.num_hidden_layers - 1)])
        self.source: BlockSource[ClipLayer] = ResidentBlocks(self.layers)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Encode normalised square images.

        Returns:
            Hidden states of shape B, S, C, class token first.
        """
        patches_BSC = self.patch_embedding(pixels_BCHW.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        first_B1C = self.class_embedding.expand(len(patches_BSC), 1, -1)
        embedded_BSC = torch.cat([first_B1C, patches_BSC], dim=1) + self.position_embedding.weight
        x_BSC: Tensor = self.pre_layernorm(embedded_BSC)
        for layer in range(len(self.layers)):
            x_BSC = self.source.take(layer)(x_BSC)
        return x_BSC


STACK = Stack(name="layers")
"""What passes through the device where the tower is released; the rest is a few MB."""
TOP_NAMES: Mapping[str, str] = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "patch_embedding.weight",
    "embeddings.position_embedding.weight": "position_embedding.weight",
    "pre_layrnorm.weight": "pre_layernorm.weight",
    "pre_layrnorm.bias": "pre_layernorm.bias",
}


def rename_tensor(name: str, layers: int) -> str | None:
    """Map a tensor name of transformers to ours; None for one that is not run.

    Args:
        name: Name in the file.
        layers: Layers in the checkpoint.
    """
    name = name.removeprefix("vision_model.")
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    found = re.fullmatch(r"encoder\.layers\.(\d+)\.(?:self_attn\.|mlp\.)?(\w+\.(?:weight|bias))", name)
    return f"layers.{found[1]}.{found[2]}" if found and int(found[1]) < layers - 1 else None


def load_clip(
    files: Sequence[Path],
    config: ClipConfig,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    released: bool = False,
) -> ClipVision:
    """Load a vision tower in transformers' names.

    Args:
        files: Weights.
        config: Size of the tower.
        device: Where it computes.
        dtype: Dtype of the weights.
        released: Keep its layers in host memory between images.

    Raises:
        WeightsError: The weights do not fit.
    """

    def rename(name: str) -> str | None:
        return rename_tensor(name, config.num_hidden_layers)

    stack = STACK if released else None
    return load_module(lambda: ClipVision(config), files, rename, device=device, dtype=dtype, stack=stack)
