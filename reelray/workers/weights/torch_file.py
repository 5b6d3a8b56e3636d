"""Pickled checkpoints (`.pt`, `.pth`), memory-mapped and read without running code."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from reelray.proto.errors import WeightsError
from reelray.workers.weights.source import TensorFacts

SUB_DICTS = ("generator_ema", "generator", "model", "state_dict", "generator_lora")


class TorchSource:
    """One `torch.save` file as a `TensorSource`.

    Args:
        file: The file.
        weights_key: Which sub-dict to read; None when the file holds only one.

    Raises:
        WeightsError: The file is missing, truncated or damaged, or the sub-dict is not clear.
    """

    def __init__(self, file: Path, weights_key: str | None = None) -> None:
        self._values = _choose_state(file, load_mapped(file), weights_key)
        self.tensors = {
            name: TensorFacts(shape=tuple(value.shape), dtype=value.dtype, file=str(file))
            for name, value in self._values.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._values = {}

    def read(self, name: str, out: Tensor) -> None:
        """Copy a tensor into `out`; see `TensorSource.read`."""
        out.copy_(self._values[name])


def load_mapped(file: Path) -> Any:
    """Open a `torch.save` file without reading its tensors.

    Raises:
        WeightsError: The file is missing, truncated, damaged, or holds more than tensors.
    """
    if not file.is_file():
        raise WeightsError(f"{file}: the file is missing")
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{file}: holds more than tensors, or is damaged; it is not loaded") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise WeightsError(f"{file}: truncated or damaged; download the file again") from error


def _choose_state(file: Path, content: Any, weights_key: str | None) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise WeightsError(f"{file}: holds a {type(content).__name__}; a dict of tensors is expected")
    if weights_key is not None:
        if not isinstance(content.get(weights_key), Mapping):
            keys = ", ".join(sorted(str(key) for key, value in content.items() if isinstance(value, Mapping)))
            raise WeightsError(f"{file}: has no weights under {weights_key!r}; it holds {keys or 'plain tensors'}")
        return _keep_tensors(file, content[weights_key])
    nested = [key for key in SUB_DICTS if isinstance(content.get(key), Mapping)]
    if len(nested) > 1:
        raise WeightsError(f"{file}: holds {' and '.join(nested)}; name one of them as key")
    return _keep_tensors(file, content[nested[0]] if nested else content)


def _keep_tensors(file: Path, state: Mapping[Any, Any]) -> dict[str, Tensor]:
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise WeightsError(f"{file}: entry {name} is a {type(value).__name__}; a tensor is expected")
    return {str(name): value for name, value in state.items()}
