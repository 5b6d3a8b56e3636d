"""Keys and values of remembered frames, laid out so that attention reads them and the window's as one tensor.

Shape suffixes: B batch, K remembered tokens, S window tokens, M = K + S, N heads here, D head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from reelray.kernels.put_tokens.api import put_tokens
from reelray.workers.memory.page_format import KeyShape


class Workspace:
    """One buffer per layer whose address never changes, as CUDA graphs need it.

    Keys lie here as attention reads them: RMS-normed and rotated.

    Args:
        shape: Of one token.
        remembered: Most remembered tokens.
        window: Most tokens of a window.
        device: Where it lies.
        first_head: Number of the first of these heads in the model.
        room: Values on which it is laid, as many as it takes; None allocates them.
    """

    def __init__(
        self,
        shape: KeyShape,
        *,
        remembered: int,
        window: int,
        device: torch.device,
        first_head: int = 0,
        room: Tensor | None = None,
    ) -> None:
        self.shape, self.first_head = shape, first_head
        self.most_remembered, self.most_window = remembered, window
        size = (shape.layers, 2, 1, remembered + window, shape.heads, shape.width)
        values = torch.zeros(size, dtype=shape.dtype, device=device) if room is None else room.view(size)
        self._layers = list(values.unbind(0))
        self._all_L2MND: Tensor | None = values[:, :, 0]
        self._pasts: dict[int, RememberedPast] = {}

    def put(self, layer: int, first: int, keys_SND: Tensor, values_SND: Tensor) -> None:
        """Lay down remembered tokens.

        Args:
            layer: Of those that are here.
            first: Place of the first of them.
            keys_SND: Rotated.
            values_SND: Beside them.
        """
        for part_1MND, source_SND in zip(self._layers[layer], (keys_SND, values_SND), strict=True):
            part_1MND[0, first : first + len(source_SND)].copy_(source_SND)

    def tokens(self, count: int) -> Tensor:
        """The first `count` tokens of all layers [L, 2, K, N, D], to be overwritten."""
        assert self._all_L2MND is not None
        return self._all_L2MND[:, :, :count]

    def past(self, remembered: int) -> "RememberedPast":
        """What attention sees while `remembered` tokens lie here; the same object for the same number.

        Raises:
            ValueError: There is not so much room.
        """
        if not 0 <= remembered <= self.most_remembered:
            raise ValueError(f"remembered is {remembered}; it must lie in 0..{self.most_remembered}")
        if remembered not in self._pasts:
            self._pasts[remembered] = RememberedPast(self, self._layers, remembered)
        return self._pasts[remembered]

    def close(self) -> None:
        """Let go of its values, whoever still holds a past of it."""
        self._layers.clear()
        self._all_L2MND = None


class RememberedPast:
    """Implements `Past` on the first tokens of a workspace.

    Args:
        workspace: Whose.
        layers: Its buffers [2, 1, M, N, D].
        remembered: Tokens, K.
    """

    def __init__(self, workspace: Workspace, layers: Sequence[Tensor], remembered: int) -> None:
        self.workspace = workspace
        self._layers = layers
        self._remembered = remembered

    def extend(self, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, heads: range) -> tuple[Tensor, Tensor]:
        """See `Past`."""
        begin, first = self._remembered, self.workspace.first_head
        end, own = begin + k_BSND.shape[1], slice(heads.start - first, heads.stop - first)
        keys_1MND, values_1MND = self._layers[layer][:, :, :end, own]
        put_tokens(k_BSND[0], v_BSND[0], keys_1MND[0, begin:], values_1MND[0, begin:])
        return keys_1MND, values_1MND


class Staging:
    """Implements `Recorder`: keeps what one forward leaves, at addresses that stay, until pages take it.

    Args:
        shape: Of one token.
        window: Most tokens of a window.
        device: Where it lies.
        first_head: Number of the first of these heads in the model.
        room: See `Workspace`.
    """

    def __init__(
        self,
        shape: KeyShape,
        *,
        window: int,
        device: torch.device,
        first_head: int = 0,
        room: Tensor | None = None,
    ) -> None:
        self._first_head = first_head
        size = (shape.layers, 2, window, shape.heads, shape.width)
        self._room_L2SND = torch.zeros(size, dtype=shape.dtype, device=device) if room is None else room.view(size)

    def write(self, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, heads: range) -> None:
        """See `Recorder`."""
        own = slice(heads.start - self._first_head, heads.stop - self._first_head)
        keys_SND, values_SND = self._room_L2SND[layer][:, : k_BSND.shape[1], own]
        put_tokens(k_BSND[0], v_BSND[0], keys_SND, values_SND)

    def tokens(self, span: slice) -> Tensor:
        """Keys, not rotated, and values of some tokens of the window, of all layers [L, 2, S, N, D]."""
        return self._room_L2SND[:, :, span]

    def close(self) -> None:
        """Let go of its values."""
        self._room_L2SND = self._room_L2SND.new_empty(0)


def fill_workspace(
    keys: Sequence[Tensor], values: Sequence[Tensor], *, window: int, first_head: int = 0
) -> RememberedPast:
    """A workspace that holds what is given.

    Args:
        keys: One [1, K, N, D] tensor per layer, rotated.
        values: Beside them.
        window: Tokens of the window.
        first_head: Number of the first of these heads in the model.
    """
    _, tokens, heads, width = keys[0].shape
    shape = KeyShape(layers=len(keys), heads=heads, width=width, dtype=keys[0].dtype)
    workspace = Workspace(shape, remembered=tokens, window=window, device=keys[0].device, first_head=first_head)
    for layer, (key_1KND, value_1KND) in enumerate(zip(keys, values, strict=True)):
        workspace.put(layer, 0, key_1KND[0], value_1KND[0])
    return workspace.past(tokens)
