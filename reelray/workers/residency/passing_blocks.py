"""Blocks that pass through two slots on the device: in one a block computes, in the other the next arrives.

Order on a GPU. The host runs ahead, so everything is said to streams. `take(k)` makes the current stream wait until k
has arrived (use after copy), and lets k+1 be fetched into the slot of k-1: all work with k-1 has been given to the
current stream by then, and a feed begins after the work that the current stream has at that moment (copy after use).
Nobody waits on the host.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol

import torch
from torch import Tensor, nn

from reelray.workers.residency.flat_block import FlatBlock
from reelray.workers.residency.source import Block, Block_co, BlockSource


class Arrival(Protocol):
    """A block on its way."""

    def wait(self) -> object:
        """Let later work of the current stream find it; on a CPU, wait for it."""
        ...


class Feed(Protocol[Block_co]):
    """Holds blocks and brings them.

    Attributes:
        slot_bytes: Bytes that `fetch` fills.
    """

    slot_bytes: int

    def fetch(self, layer: int, slot: Tensor) -> Arrival:
        """Begin to fill `slot` with a block, after all work that the current stream has now."""
        ...

    def write(self, layer: int) -> Iterator[Block_co]:
        """Yield a block to be filled, once; keep what it then holds."""
        ...

    def keep(self, layers: range) -> None:
        """Give up all other layers."""
        ...


@dataclass(kw_only=True, slots=True)
class _Slot(Generic[Block]):
    block: Block
    buffer: Tensor | None = None
    layer: int | None = None
    arrival: Arrival | None = None


class PassingBlocks(BlockSource[Block]):
    """Implements `BlockSource` with two blocks on the device at any time, and none before the first is taken.

    Args:
        pattern: A block as all of them are, on the meta device.
        feed: Brings them.
        layers: Which there are. After the last one comes the first: forwards follow each other.
        device: Where they compute.

    Attributes:
        feed: Brings them.
    """

    def __init__(self, pattern: Block, feed: Feed[Block], layers: range, device: torch.device) -> None:
        self.feed = feed
        self._layers = layers
        self._device = device
        self._flat = FlatBlock.of(pattern)
        self._slots = (_Slot(block=copy.deepcopy(pattern)), _Slot(block=copy.deepcopy(pattern)))
        self._current = 0

    @property
    def device_bytes(self) -> int:
        """Bytes of the slots that are on the device now."""
        return sum(slot.buffer.nbytes for slot in self._slots if slot.buffer is not None)

    def take(self, layer: int) -> Block:
        """See `BlockSource`.

        Raises:
            ValueError: The layer is not here.
        """
        if layer not in self._layers:
            raise ValueError(f"layer {layer} is not here; {self._layers} are")
        here = next((index for index, slot in enumerate(self._slots) if slot.layer == layer), None)
        if here is None:
            here = 1 - self._current
            self._fetch(here, layer)
        self._arrive(self._slots[here])
        self._current = here
        following = layer + 1 if layer + 1 in self._layers else self._layers.start
        if following not in {layer, self._slots[1 - here].layer}:
            self._fetch(1 - here, following)
        return self._slots[here].block

    def modules(self) -> list[Block]:
        """See `BlockSource`."""
        return [slot.block for slot in self._slots]

    @contextmanager
    def write(self, layer: int) -> Iterator[Block]:
        """See `BlockSource`."""
        self._forget()
        yield from self.feed.write(layer)

    def keep(self, layers: range) -> None:
        """See `BlockSource`."""
        self._forget()
        self._layers = layers
        self.feed.keep(layers)

    def release(self) -> None:
        """See `BlockSource`: the slots go, and come back when a block is taken."""
        self._forget()
        for slot in self._slots:
            if slot.buffer is not None:
                self._flat.unbind(slot.block)
                slot.buffer = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def abandon(self) -> None:
        """Give up whatever is on its way without waiting for it: it never comes."""
        for slot in self._slots:
            slot.arrival = slot.layer = None

    def _fetch(self, index: int, layer: int) -> None:
        slot = self._slots[index]
        self._arrive(slot)  # a block that nobody took may still be on its way into this slot
        slot.layer = None
        if slot.buffer is None:
            # Slots outlive the inference mode in which they may be made.
            with torch.inference_mode(mode=False):
                slot.buffer = torch.empty(self.feed.slot_bytes, dtype=torch.uint8, device=self._device)
                self._flat.bind(slot.block, slot.buffer)
        slot.arrival = self.feed.fetch(layer, slot.buffer)
        slot.layer = layer

    def _forget(self) -> None:
        for slot in self._slots:
            self._arrive(slot)
            slot.layer = None

    @staticmethod
    def _arrive(slot: _Slot[Block]) -> None:
        if slot.arrival is not None:
            slot.arrival.wait()
            slot.arrival = None


def check_alike(blocks: nn.ModuleList, layers: range) -> FlatBlock:
    """How the blocks of some layers lie.

    Raises:
        ValueError: They are not all of one kind.
    """
    flats = [FlatBlock.of(blocks[layer]) for layer in layers]
    if any(flat != flats[0] for flat in flats):
        raise ValueError("the blocks differ in their parameters; only blocks of one kind can pass through slots")
    return flats[0]
