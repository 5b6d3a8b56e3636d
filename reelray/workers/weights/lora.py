"""Low-rank updates merged into weights while they are read: W + alpha / rank * B A."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from reelray.proto.errors import WeightsError
from reelray.workers.weights.safetensors_file import SafetensorsSource
from reelray.workers.weights.source import TensorSource
from reelray.workers.weights.torch_file import TorchSource

PEFT_PREFIX = "base_model.model."
FACTOR = re.compile(r"^(?P<module>.+)\.lora_(?P<side>A|B|down|up)(?:\.[\w-]+)?\.weight$")
ALPHA = re.compile(r"^(?P<module>.+)\.(?:lora_)?alpha$")
SIDES = {"A": "A", "down": "A", "B": "B", "up": "B"}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraFile:
    """A LoRA to merge.

    Args:
        path: `.pt` or `.safetensors` file.
        weights_key: Sub-dict of a `.pt` file, such as ``generator_lora``; None when it holds only one.
        alpha: Numerator of the scale where the file has none; None means the rank, a scale of `strength`.
        strength: Factor on the whole update.
    """

    path: Path
    weights_key: str | None = None
    alpha: float | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.alpha is not None and self.alpha <= 0:
            raise ValueError(f"alpha is {self.alpha}; it must be greater than 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class LowRankUpdate:
    """One module's update.

    Args:
        down: A, [rank, in].
        up: B, [out, rank].
        scale: Factor on B A.
        file: Where it came from.
    """

    down: Tensor
    up: Tensor
    scale: float
    file: str

    def check_fit(self, name: str, shape: tuple[int, ...]) -> None:
        """Compare the factors with each other and with a weight.

        Args:
            name: What to call the weight.
            shape: Shape of the weight.

        Raises:
            WeightsError: Ranks or sides differ.
        """
        flat = self.up.ndim == self.down.ndim == 2
        if not flat or (self.up.shape[0], self.down.shape[1]) != shape or self.up.shape[1] != self.down.shape[0]:
            factors = f"{list(self.up.shape)} x {list(self.down.shape)}"
            raise WeightsError(f"{self.file}: LoRA factors {factors} do not fit a weight of {list(shape)}, {name}")

    def add_to(self, weight: Tensor) -> None:
        """Add scale * B A to a float32 weight whose shape fits."""
        up, down = (part.to(weight.device, torch.float32) for part in (self.up, self.down))
        weight.addmm_(up, down, alpha=self.scale)


def read_lora(lora: LoraFile, rename: Callable[[str], str]) -> dict[str, LowRankUpdate]:
    """Read all updates of a LoRA file.

    Args:
        lora: The file.
        rename: Maps a parameter name of the file to the model's canonical name.

    Returns:
        Updates by canonical weight name.

    Raises:
        WeightsError: The file is unusable, holds other tensors, or half a pair.
    """
    with _open_lora(lora) as source:
        factors: dict[str, dict[str, Tensor]] = {}
        alphas: dict[str, float] = {}
        for name in source.tensors:
            plain = name.replace(PEFT_PREFIX, "", 1)
            if match := FACTOR.match(plain):
                factors.setdefault(match["module"], {})[SIDES[match["side"]]] = _read(source, name)
            elif match := ALPHA.match(plain):
                alphas[match["module"]] = float(_read(source, name))
            else:
                raise WeightsError(f"{lora.path}: tensor {name} is not a LoRA factor (lora_A, lora_B or alpha)")
    updates = {}
    for module, pair in factors.items():
        if pair.keys() != {"A", "B"}:
            raise WeightsError(f"{lora.path}: {module} has lora_{next(iter(pair))} without its partner")
        rank = pair["A"].shape[0]
        scale = lora.strength * alphas.get(module, lora.alpha or rank) / rank
        update = LowRankUpdate(down=pair["A"], up=pair["B"], scale=scale, file=str(lora.path))
        updates[rename(f"{module}.weight")] = update
    return updates


def _open_lora(lora: LoraFile) -> TensorSource:
    if lora.path.suffix == ".safetensors":
        return SafetensorsSource([lora.path])
    return TorchSource(lora.path, lora.weights_key)


def _read(source: TensorSource, name: str) -> Tensor:
    facts = source.tensors[name]
    out = torch.empty(facts.shape, dtype=facts.dtype)
    source.read(name, out)
    return out
