"""Builds a module from weight files: every tensor goes straight to its device and dtype."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from reelray.proto.errors import WeightsError
from reelray.workers.weights.safetensors_file import SafetensorsSource
from reelray.workers.weights.source import TensorSource, check_names
from reelray.workers.weights.torch_file import TorchSource

Module = TypeVar("Module", bound=nn.Module)
Rename = Callable[[str], str | None]
"""Maps a checkpoint's tensor name to the module's; None leaves the tensor unread."""


class SkipInitialisation(TorchFunctionMode):
    """Turns `torch.nn.init` off: drawing normals on the meta device imports two seconds of decompositions."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def load_module(
    build: Callable[[], Module],
    files: Sequence[Path],
    rename: Rename,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
) -> Module:
    """Build a module in evaluation mode and fill it.

    Args:
        build: Makes the module; called under the meta device.
        files: safetensors files, or one torch file (`.pth`).
        rename: Names of the files to names of the module.
        device: Where the parameters go.
        dtype: Dtype of the parameters.

    Raises:
        WeightsError: A file is not readable; a tensor is missing, unknown or has another shape.
    """
    module = build_empty(build, device=device, dtype=dtype)
    fill_parameters(module, files, rename)
    return module.eval()


def build_empty(build: Callable[[], Module], *, device: torch.device | str, dtype: torch.dtype) -> Module:
    """Build a module whose parameters are allocated in place and dtype but not yet written; see `load_module`."""
    with SkipInitialisation(), torch.device("meta"):
        module = build()
    for child in module.modules():
        for name, parameter in list(child.named_parameters(recurse=False)):
            # empty_like of a meta tensor would import sympy for a second.
            empty = torch.empty(parameter.shape, device=device, dtype=dtype)
            child.register_parameter(name, nn.Parameter(empty, requires_grad=False))
    return module


def fill_parameters(module: nn.Module, files: Sequence[Path], rename: Rename) -> None:
    """Copy tensors of the files into the parameters of `module`; see `load_module`."""
    file = str(files[0].parent if len(files) > 1 else files[0])
    with open_files(files) as source:
        fill_from(source, module, rename, file)


def fill_from(source: TensorSource, module: nn.Module, rename: Rename, file: str) -> None:
    """Copy tensors of a source into the parameters of `module`.

    Args:
        source: Holds every parameter.
        module: Parameters on their device, in their dtype.
        rename: Names of the source to names of the module.
        file: What to call the source in an error.

    Raises:
        WeightsError: A tensor is missing, unknown or has another shape.
    """
    views = {name: parameter.data for name, parameter in module.named_parameters()}
    # Two names may mean one tensor where a checkpoint stores a tied weight twice.
    names = {ours: theirs for theirs in source.tensors if (ours := rename(theirs)) is not None}
    found = {ours: source.tensors[theirs] for ours, theirs in names.items()}
    check_names({name: tuple(view.shape) for name, view in views.items()}, found, names, file)
    for name, view in views.items():
        source.read(names[name], view)


def open_files(files: Sequence[Path]) -> TensorSource:
    """Open safetensors files, or one torch file.

    Raises:
        WeightsError: There is none, or a file is not readable.
    """
    if not files:
        raise WeightsError("no weight file is named")
    return SafetensorsSource(files) if files[0].suffix == ".safetensors" else TorchSource(files[0])
