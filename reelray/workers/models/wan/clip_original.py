"""The CLIP vision tower of the original release: names, fused projections, and no configuration file."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from reelray.workers.models.wan.clip import STACK, ClipConfig, ClipVision
from reelray.workers.models.weight_loading import build_empty, fill_from
from reelray.workers.weights.source import TensorFacts
from reelray.workers.weights.torch_file import TorchSource

PREFIX = "visual."
TOP_NAMES: Mapping[str, str] = {
    "cls_embedding": "class_embedding",
    "patch_embedding.weight": "patch_embedding.weight",
    "pos_embedding": "position_embedding.weight",
    "pre_norm.weight": "pre_layernorm.weight",
    "pre_norm.bias": "pre_layernorm.bias",
}
LAYER_NAMES: Mapping[str, str] = {
    "norm1": "layer_norm1",
    "attn.proj": "out_proj",
    "norm2": "layer_norm2",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
}
FUSED = "attn.to_qkv"
PROJECTIONS = ("q_proj", "k_proj", "v_proj")
LAYER = re.compile(r"transformer\.(\d+)\.([\w.]+)\.(weight|bias)")


def find_parts(name: str, layers: int) -> tuple[str, ...]:
    """Map a tensor name of the original to ours.

    Args:
        name: Name in the file.
        layers: Layers in the checkpoint; the last one is not run.

    Returns:
        One name; three for queries, keys and values that are stored one below the other; none for a tensor that is not
        run: the text tower, the last layer, and what comes after it.
    """
    if not name.startswith(PREFIX):
        return ()
    name = name.removeprefix(PREFIX)
    if name in TOP_NAMES:
        return (TOP_NAMES[name],)
    found = LAYER.fullmatch(name)
    if found is None or int(found[1]) >= layers - 1:
        return ()
    layer, part, kind = found.groups()
    if part == FUSED:
        return tuple(f"layers.{layer}.{projection}.{kind}" for projection in PROJECTIONS)
    return (f"layers.{layer}.{LAYER_NAMES.get(part, part)}.{kind}",)


class OriginalTower:
    """The vision tower of a `models_clip_*.pth` file as a `TensorSource` under our names.

    Args:
        file: The file, vision and text tower together.
        layers: Layers of the vision tower.

    Raises:
        WeightsError: The file is missing or damaged.
    """

    def __init__(self, file: Path, layers: int) -> None:
        self._source = TorchSource(file)
        self._places: dict[str, tuple[str, int, int]] = {}
        self.tensors: dict[str, TensorFacts] = {}
        for name, facts in self._source.tensors.items():
            parts = find_parts(name, layers)
            for index, ours in enumerate(parts):
                self._places[ours] = (name, index, len(parts))
                self.tensors[ours] = TensorFacts(
                    shape=_shape_of(ours, facts.shape, len(parts)), dtype=facts.dtype, file=facts.file
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source.__exit__(kind, error, trace)

    def read(self, name: str, out: Tensor) -> None:
        """Copy a tensor into `out`; see `TensorSource.read`."""
        original, index, parts = self._places[name]
        whole = torch.empty(self._source.tensors[original].shape, dtype=out.dtype)
        self._source.read(original, whole)
        out.copy_(whole.flatten(0, whole.ndim - out.ndim).chunk(parts)[index])


def load_original_clip(
    file: Path, config: ClipConfig, *, device: torch.device | str, dtype: torch.dtype, released: bool = False
) -> ClipVision:
    """Load the vision tower of the original release; see `load_clip`.

    Raises:
        WeightsError: The file is missing or damaged, or does not hold this tower.
    """
    stack = STACK if released else None
    tower = build_empty(lambda: ClipVision(config), device=device, dtype=dtype, stack=stack)
    with OriginalTower(file, config.num_hidden_layers) as source:
        fill_from(source, tower, lambda name: name, str(file))
    return tower.eval()


def _shape_of(name: str, shape: tuple[int, ...], parts: int) -> tuple[int, ...]:
    if name in {"class_embedding", "position_embedding.weight"}:  # stored with axes of length 1 in front
        wanted = 1 if name == "class_embedding" else 2
        return shape[-wanted:] if all(side == 1 for side in shape[:-wanted]) else shape
    return (shape[0] // parts, *shape[1:]) if shape and shape[0] % parts == 0 else shape
