"""All parameters of a block in one run of bytes, so that one copy or one collective moves them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ALIGNMENT = 256
"""Of every parameter: more than any kernel asks for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a parameter lies: first byte, bytes, dtype and shape."""

    start: int
    nbytes: int
    dtype: torch.dtype
    shape: torch.Size


@dataclass(frozen=True, kw_only=True, slots=True)
class FlatBlock:
    """How the parameters of a block lie one after the other; blocks of one kind lie alike.

    Args:
        places: By name, in order.
        nbytes: Of all together.
    """

    places: Mapping[str, Place]
    nbytes: int

    @classmethod
    def of(cls, block: nn.Module) -> "FlatBlock":
        """Lay the parameters of a block out; they may be on the meta device."""
        places, end = {}, 0
        for name, parameter in block.named_parameters():
            places[name] = Place(start=end, nbytes=parameter.nbytes, dtype=parameter.dtype, shape=parameter.shape)
            end = round_up(end + parameter.nbytes)
        return cls(places=places, nbytes=end)

    def bind(self, block: nn.Module, buffer: Tensor) -> None:
        """Let the parameters of a block be views of `buffer`, uint8 and at least `nbytes` long."""
        for name, place in self.places.items():
            path, _, leaf = name.rpartition(".")
            view = buffer[place.start : place.start + place.nbytes].view(place.dtype).view(place.shape)
            block.get_submodule(path).register_parameter(leaf, nn.Parameter(view, requires_grad=False))

    def unbind(self, block: nn.Module) -> None:
        """Let the parameters of a block hold no memory."""
        self.bind(block, torch.empty(self.nbytes, dtype=torch.uint8, device="meta"))


def round_up(nbytes: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
