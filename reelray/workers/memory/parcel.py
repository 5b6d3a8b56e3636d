"""Tensors that rest in host memory beside a video's pages, such as the state of its decoder.

Shape suffixes: X bytes.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from reelray.workers.memory.host_pages import HostPages
from reelray.workers.memory.transfers import Transfer, Transfers


class Parcel:
    """Copies of tensors, one after the other over pages of host memory.

    Args:
        tensors: Of one device; they may be let go as soon as this is made.
        host: Where the copies go.
        transfers: Begins the copies.

    Raises:
        ResourceError: There is no host memory for them; nothing is copied.
    """

    def __init__(self, tensors: Sequence[Tensor], host: HostPages, transfers: Transfers) -> None:
        self._kinds = [(tensor.shape, tensor.dtype) for tensor in tensors]
        self._host, self._transfers = host, transfers
        nbytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self._pages = host.take(-(-nbytes // host.page_bytes))
        transfers.begin((there_X, here_X) for here_X, there_X in self._pair(tensors))

    def copy(self) -> "Parcel":
        """The same once more.

        Raises:
            ResourceError: There is no host memory for it.
        """
        other = Parcel([], self._host, self._transfers)
        other._kinds, other._pages = self._kinds, self._host.take(len(self._pages))
        self._transfers.last.finish()
        for target_X, source_X in zip(self._host.rows(other._pages), self._host.rows(self._pages), strict=True):
            target_X.copy_(source_X)
        return other

    def unpack(self, device: torch.device) -> tuple[list[Tensor], Transfer]:
        """Begin to bring all of them back, once; the host's copies are given up.

        Args:
            device: Where they were.
        """
        tensors, arrival = self._bring(device)
        self.close()
        return tensors, arrival

    def show(self, device: torch.device) -> list[Tensor]:
        """Copies of all of them for later work of the device.

        Args:
            device: Where they were.
        """
        tensors, arrival = self._bring(device)
        arrival.wait()
        return tensors

    def _bring(self, device: torch.device) -> tuple[list[Tensor], Transfer]:
        tensors = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in self._kinds]
        return tensors, self._transfers.begin(self._pair(tensors))

    def close(self) -> None:
        """Give the host's memory back; may be called twice."""
        self._host.drop(self._pages)
        self._pages = ()

    def _pair(self, tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Pieces of the tensors and where they lie in host memory."""
        rows, room, at = self._host.rows(self._pages), self._host.page_bytes, 0
        for tensor in tensors:
            flat_X, begin = tensor.contiguous().flatten().view(torch.uint8), 0
            while begin < len(flat_X):
                count = min(len(flat_X) - begin, room - at % room)
                yield flat_X[begin : begin + count], rows[at // room][at % room : at % room + count]
                begin, at = begin + count, at + count
