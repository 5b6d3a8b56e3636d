"""Blocks in host memory, copied to the device one at a time."""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reelray.proto.errors import ResourceError
from reelray.workers.residency.passing_blocks import Arrival, Feed, check_alike
from reelray.workers.residency.source import Block


class HostBlocks(Feed[Block]):
    """Implements `Feed` from host memory, page-locked where the device is a GPU: only then does a copy run beside work.

    Args:
        blocks: The blocks, on the meta device; from here on they lie in host memory.
        layers: Layers to hold.
        device: Where they go; on a CPU they are copied too, so that this is the same everywhere.
    """

    def __init__(self, blocks: nn.ModuleList, layers: range, device: torch.device) -> None:
        self._blocks = blocks
        self._flat = check_alike(blocks, layers)
        self.slot_bytes = self._flat.nbytes
        self._device = device
        self._held = {layer: HostBuffer(self._flat.nbytes, device) for layer in layers}
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        for layer, held in self._held.items():
            self._flat.bind(blocks[layer], held.bytes)

    def fetch(self, layer: int, slot: Tensor) -> Arrival:
        """See `Feed`."""
        held = self._held[layer].bytes
        if self._stream is None:
            slot.copy_(held)
            return _Copied()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            slot.copy_(held, non_blocking=True)
            slot.record_stream(self._stream)  # whoever drops the slot while a copy runs must not get its bytes
            return _Copied(event=self._stream.record_event(), device=self._device)

    def write(self, layer: int) -> Iterator[Block]:
        """See `Feed`."""
        block: Block = self._blocks[layer]  # type: ignore[assignment]
        yield block

    def keep(self, layers: range) -> None:
        """See `Feed`."""
        for layer in [layer for layer in self._held if layer not in layers]:
            self._flat.unbind(self._blocks[layer])
            del self._held[layer]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Copied:
    event: torch.cuda.Event | None = None
    device: torch.device | None = None

    def wait(self) -> None:
        if self.event is not None:
            torch.cuda.current_stream(self.device).wait_event(self.event)


class HostBuffer:
    """Bytes in host memory that a GPU can copy from by itself.

    Registered with CUDA rather than taken from torch's pool of pinned memory, which rounds up to a power of two: 40
    blocks of 0.70 GB would take 43 GB.

    Args:
        nbytes: How many.
        device: Who copies from them.

    Raises:
        ResourceError: The driver does not lock so much memory.
    """

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self.bytes = torch.empty(nbytes, dtype=torch.uint8)
        if device.type == "cuda":
            runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
            with torch.cuda.device(device):
                code = int(runtime.cudaHostRegister(self.bytes.data_ptr(), nbytes, 0))
            if code:
                raise ResourceError(
                    f"the driver does not lock {nbytes / 2**20:.0f} MiB more of host memory for weights (CUDA error "
                    f"{code}); keep the weights resident, or free memory of this machine"
                )
            weakref.finalize(self, _unlock, self.bytes, device).atexit = False


def _unlock(held: Tensor, device: torch.device) -> None:
    torch.cuda.synchronize(device)  # a copy may still read it
    torch.cuda.cudart().cudaHostUnregister(held.data_ptr())  # type: ignore[no-untyped-call]
