"""The seam through which a network reaches its blocks. It never asks where they were."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

from torch import nn

Block = TypeVar("Block", bound=nn.Module)
Block_co = TypeVar("Block_co", bound=nn.Module, covariant=True)


class BlockSource(Protocol[Block_co]):
    """Hands out the blocks of a network, one at a time."""

    def take(self, layer: int) -> Block_co:
        """The block of a layer, ready on the device.

        It may be used until `take` is called again; its work belongs on the stream that is current then. Where ranks
        share the weights, all of them must take the same layers in the same order.
        """
        ...

    def modules(self) -> Sequence[Block_co]:
        """What `take` hands out, without doubles: what must be set up or compiled."""
        ...

    def write(self, layer: int) -> AbstractContextManager[Block_co]:
        """A block whose parameters are to be filled; what they hold at the end is that layer from then on."""
        ...

    def keep(self, layers: range) -> None:
        """Give up all other layers and their memory."""
        ...

    def release(self) -> None:
        """Leave nothing on the device that can be brought there again."""
        ...


class ResidentBlocks(BlockSource[Block]):
    """All blocks stay where they are.

    Args:
        blocks: The blocks by layer.
    """

    def __init__(self, blocks: nn.ModuleList) -> None:
        self._blocks = blocks

    def take(self, layer: int) -> Block:
        """See `BlockSource`."""
        block: Block = self._blocks[layer]  # type: ignore[assignment]
        return block

    def modules(self) -> list[Block]:
        """See `BlockSource`."""
        return [block for block in self._blocks if not isinstance(block, nn.Identity)]  # type: ignore[misc]

    @contextmanager
    def write(self, layer: int) -> Iterator[Block]:
        """See `BlockSource`."""
        yield self.take(layer)

    def keep(self, layers: range) -> None:
        """See `BlockSource`; whoever drops them from the network drops them here."""

    def release(self) -> None:
        """See `BlockSource`; nothing here can be brought back."""
