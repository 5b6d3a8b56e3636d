"""The `weights` section of a manifest: which files replace the transformer of another checkpoint."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

WeightsKey = Literal["generator", "generator_ema", "model"]
WEIGHTS_KEYS: tuple[str, ...] = get_args(WeightsKey)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSection:
    """A low-rank update to merge.

    Args:
        path: `.pt` or `.safetensors` file.
        key: Sub-dict of a `.pt` file, such as ``generator_lora``; None when it holds only one.
        alpha: Numerator of the scale alpha / rank where the file has none; None means the rank.
        strength: Factor on the whole update.
    """

    path: Path
    key: str | None = None
    alpha: float | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.alpha is not None and self.alpha <= 0:
            raise ValueError(f"lora.alpha is {self.alpha}; it must be greater than 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsSection:
    """Where the weights of a checkpoint lie that is not complete by itself.

    Args:
        base: Checkpoint folder that provides all that is not named here.
        transformer: Weight file, or folder of weights; None keeps the base's.
        key: Sub-dict of a `.pt` file; None when it holds only one.
        lora: Update to merge into the transformer.
    """

    base: Path
    transformer: Path | None = None
    key: WeightsKey | None = None
    lora: LoraSection | None = None

    def __post_init__(self) -> None:
        if self.transformer is None and self.lora is None:
            raise ValueError("neither transformer nor lora is named; at least one must replace something of the base")
        if self.key is not None and self.transformer is None:
            raise ValueError(f"key is {self.key}, but no transformer is named; key chooses from a transformer file")

    def resolve(self, folder: Path) -> "WeightsSection":
        """Read every path as relative to `folder`; absolute ones stay."""
        lora = self.lora and dataclasses.replace(self.lora, path=folder / self.lora.path)
        transformer = self.transformer and folder / self.transformer
        return dataclasses.replace(self, base=folder / self.base, transformer=transformer, lora=lora)
