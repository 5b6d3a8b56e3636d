"""Copies checkpoint tensors into a module, straight to its device and dtype."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from reelray.proto.errors import WeightsError

Rename = Callable[[str], str | None]
"""Maps a checkpoint's tensor name to the module's; None drops the tensor."""


def load_weights(module: nn.Module, files: Sequence[Path], rename: Rename, *, device: torch.device) -> None:
    """Fill every parameter of `module`.

    Args:
        module: Built on the meta device, in the dtype wished for; parameters land on `device`.
        files: safetensors files, or torch files (`.pth`).
        rename: Names of the files to names of the module.
        device: Where the parameters go.

    Raises:
        WeightsError: A file is not readable; a tensor is missing or has another shape.
    """
    wanted = dict(module.named_parameters())
    found: dict[str, Tensor] = {}
    for file in files:
        for source, tensor in iterate_tensors(file):
            name = rename(source)
            if name is None or name not in wanted:
                continue
            if tensor.shape != wanted[name].shape:
                raise WeightsError(
                    f"{file}: {source} has shape {list(tensor.shape)}; the configuration needs "
                    f"{list(wanted[name].shape)}"
                )
            # A clone lets go of the file's memory map when nothing had to be converted.
            placed = tensor.to(device, wanted[name].dtype)
            found[name] = placed.clone() if placed.data_ptr() == tensor.data_ptr() else placed
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        where = files[0].parent if files else "checkpoint"
        raise WeightsError(f"{where}: {len(missing)} tensors are missing, such as {missing[0]}")
    module.load_state_dict(found, strict=False, assign=True)
    module.requires_grad_(requires_grad=False)


def iterate_tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor of a weight file, memory-mapped.

    Raises:
        WeightsError: The file is not readable.
    """
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is not a mapping
                    yield name, tensors.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file}: not a readable safetensors file: {error}") from error
        return
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{file}: not a readable torch file; is it truncated?") from error
    yield from state.items()
