"""What a loader needs from a weight file, whatever its format."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from reelray.proto.errors import WeightsError


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorFacts:
    """A stored tensor: shape, dtype and the file it lies in."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: str


class TensorSource(AbstractContextManager["TensorSource"], Protocol):
    """Tensors by name, read one at a time."""

    @property
    def tensors(self) -> Mapping[str, TensorFacts]:
        """Every tensor of the checkpoint, under the names in the file."""
        ...

    def read(self, name: str, out: Tensor) -> None:
        """Copy a tensor into `out`, converting dtype and device.

        Args:
            name: A name of `tensors`.
            out: Destination of the same shape.

        Raises:
            WeightsError: The file ends early.
        """
        ...


def check_names(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, TensorFacts],
    source_names: Mapping[str, str],
    file: str,
) -> None:
    """Compare a model with a checkpoint: the same names, the same shapes.

    Args:
        expected: Shape of every tensor of the model, by canonical name.
        found: Every tensor of the checkpoint, by canonical name.
        source_names: Canonical name to the name in the file.
        file: What to call the checkpoint.

    Raises:
        WeightsError: Names the file, the key, and the shapes.
    """
    for name, shape in expected.items():
        facts = found.get(name)
        if facts is None:
            raise WeightsError(f"{file}: tensor {name} is missing; {_count_missing(expected, found)}")
        if facts.shape != shape:
            raise WeightsError(
                f"{facts.file}: tensor {source_names[name]} has shape {list(facts.shape)}; "
                f"{list(shape)} is expected for {name}"
            )
    for name in found:
        if name not in expected:
            raise WeightsError(f"{found[name].file}: tensor {source_names[name]} is not part of this model")


def _count_missing(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, TensorFacts]) -> str:
    missing = sum(name not in found for name in expected)
    return f"{missing} of {len(expected)} tensors are"
