"""Builds a module from weight files: every tensor goes straight to its device and dtype."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from reelray.proto.errors import WeightsError
from reelray.proto.residency import Blocks
from reelray.workers.residency.choice import place_blocks
from reelray.workers.weights.safetensors_file import SafetensorsSource
from reelray.workers.weights.source import TensorSource, check_names
from reelray.workers.weights.torch_file import TorchSource

Module = TypeVar("Module", bound=nn.Module)
Rename = Callable[[str], str | None]
"""Maps a checkpoint's tensor name to the module's; None leaves the tensor unread."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """The part of a module that passes through its device instead of staying there.

    Args:
        name: Attribute that holds the blocks; the module takes them from its `source`.
        beside: Attributes of the module that stay in host memory too.
    """

    name: str
    beside: tuple[str, ...] = ()

    def holds(self, path: str) -> bool:
        """Whether a submodule is part of it."""
        return path.split(".", maxsplit=1)[0] in {self.name, *self.beside}


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
    stack: Stack | None = None,
) -> Module:
    """Build a module in evaluation mode and fill it.

    Args:
        build: Makes the module; called under the meta device.
        files: safetensors files, or one torch file (`.pth`).
        rename: Names of the files to names of the module.
        device: Where the parameters go.
        dtype: Dtype of the parameters.
        stack: What shall be in host memory while it does not compute; None puts everything on the device.

    Raises:
        WeightsError: A file is not readable; a tensor is missing, unknown or has another shape.
    """
    module = build_empty(build, device=device, dtype=dtype, stack=stack)
    fill_parameters(module, files, rename)
    return module.eval()


def build_empty(
    build: Callable[[], Module], *, device: torch.device | str, dtype: torch.dtype, stack: Stack | None = None
) -> Module:
    """Build a module whose parameters are allocated in place and dtype but not yet written; see `load_module`."""
    with SkipInitialisation(), torch.device("meta"):
        module = build()
    device = torch.device(device)
    for path, child in module.named_modules():
        place = torch.device("cpu") if stack and stack.holds(path) else device
        if stack and path.startswith(f"{stack.name}."):
            place = torch.device("meta")  # its memory comes with the next step
        for name, parameter in list(child.named_parameters(recurse=False)):
            # empty_like of a meta tensor would import sympy for a second.
            empty = torch.empty(parameter.shape, device=place, dtype=dtype)
            child.register_parameter(name, nn.Parameter(empty, requires_grad=False))
    if stack:
        blocks = getattr(module, stack.name)
        source = place_blocks(blocks, range(len(blocks)), Blocks.OFFLOADED, device)
        setattr(module, "source", source)  # noqa: B010  mypy knows no such attribute of every module
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
