"""A least-recently-used cache bounded in bytes."""

from collections import OrderedDict

from torch import Tensor


class ByteCache:
    """Tensors by key; the one unused for longest goes first when the bytes run out.

    Args:
        limit_bytes: Bytes of tensor data to hold; a larger tensor is not kept at all.
    """

    def __init__(self, limit_bytes: int) -> None:
        if limit_bytes < 0:
            raise ValueError(f"limit_bytes is {limit_bytes}; it must be at least 0")
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._tensors: OrderedDict[str, Tensor] = OrderedDict()

    def get(self, key: str) -> Tensor | None:
        """Look a tensor up and mark it as used."""
        tensor = self._tensors.get(key)
        if tensor is not None:
            self._tensors.move_to_end(key)
        return tensor

    def put(self, key: str, tensor: Tensor) -> None:
        """Keep a tensor, dropping old ones as needed."""
        if key in self._tensors or tensor.nbytes > self.limit_bytes:
            return
        self._tensors[key] = tensor
        self.held_bytes += tensor.nbytes
        while self.held_bytes > self.limit_bytes:
            _, dropped = self._tensors.popitem(last=False)
            self.held_bytes -= dropped.nbytes
