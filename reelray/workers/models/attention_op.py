"""The seam of self-attention: what a transformer calls once per layer.

Memory, sparsity and meshes are other implementations of the same call. Shape suffixes: B batch, S tokens,
N heads, D head width, P rotated pairs of a head.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from reelray.kernels.attention.api import attend
from reelray.kernels.norm_rope.api import rotate


class AttentionOp(Protocol):
    """Self-attention of one layer.

    Attributes:
        rotates: False when queries and keys arrive rotated; True when they arrive un-rotated (a memory stores keys
            so) and the op applies `cos_BSP` and `sin_BSP` itself.
        repeats: Whether every call does the same work, so that a forward may be recorded and played again.
    """

    rotates: bool
    repeats: bool

    def __call__(
        self, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, cos_BSP: Tensor, sin_BSP: Tensor
    ) -> Tensor:
        """Attend.

        Args:
            q_BSND: Queries of the window, RMS-normed.
            k_BSND: Keys of the window, RMS-normed.
            v_BSND: Values of the window; may be a strided view.
            layer: Index of the block, 0 first.
            cos_BSP: Cosines of the window's positions, batch 1 or B, float32.
            sin_BSP: Sines of the window's positions.

        Returns:
            Mixed values, shape of `q_BSND`; valid until the next call on the same ranks, for whichever window.
        """
        ...


class Past(Protocol):
    """Keys and values of latent frames before the window, of every layer."""

    def extend(self, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, heads: range) -> tuple[Tensor, Tensor]:
        """Put the window's keys and values behind those that are remembered.

        Args:
            k_BSND: Keys of all tokens of the window.
            v_BSND: Their values.
            layer: Index of the block.
            heads: Which heads of the model these are.

        Returns:
            Keys and values of both, valid until the next call for this layer.
        """
        ...


class Recorder(Protocol):
    """Takes down what a forward leaves behind."""

    def write(self, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, heads: range) -> None:
        """Keep keys and values of all tokens of the window.

        Args:
            k_BSND: Keys, RMS-normed and not rotated.
            v_BSND: Their values.
            layer: Index of the block.
            heads: Which heads of the model these are.
        """
        ...


class Core(Protocol):
    """Attends in place of dense attention, where all tokens of a window are at hand for some heads.

    Attributes:
        order: The order in which it wants the window's tokens; None leaves them latent frame by latent frame.
    """

    @property
    def order(self) -> "TokenOrder | None":
        """See the class."""
        ...

    def __call__(self, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, /, *, layer: int, heads: range) -> Tensor:
        """Attend.

        Args:
            q_BSND: Queries of all tokens of the window, rotated.
            k_BSND: Their keys.
            v_BSND: Their values.
            layer: Index of the block.
            heads: Which heads of the model these are.

        Returns:
            Mixed values, shape of `q_BSND`.
        """
        ...


class TokenOrder(Protocol):
    """Another order of the tokens of a window than latent frame by latent frame.

    Attributes:
        places: More than there are tokens where some of its blocks are not full.
    """

    @property
    def places(self) -> int:
        """See the class."""
        ...

    def take(self, tokens_BSC: Tensor, /) -> Tensor:
        """Tokens of a window, any number of channels, in this order; places without a token hold some other one."""
        ...

    def join(self, laid_BPC: Tensor, /) -> Tensor:
        """The reverse of `take`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class View:
    """What a window attends; equal to itself alone.

    Args:
        past: Is attended besides the window; None where nothing is remembered.
        recorder: Takes down the window's own keys and values; None where they are not committed.
        core: Attends in place of dense attention, for windows without memory whose frames all have one timestep.
        made: What others have made of it and want to find again, by their key.
    """

    past: Past | None = None
    recorder: Recorder | None = None
    core: Core | None = None
    made: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def extend(self, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, heads: range) -> tuple[Tensor, Tensor]:
        """See `Past`."""
        if self.past is None:
            return k_BSND, v_BSND
        return self.past.extend(k_BSND, v_BSND, layer=layer, heads=heads)

    def attend(self, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, heads: range) -> Tensor:
        """Attend the window and what is remembered."""
        if self.core is not None:
            return self.core(q_BSND, k_BSND, v_BSND, layer=layer, heads=heads)
        return attend(q_BSND, *self.extend(k_BSND, v_BSND, layer=layer, heads=heads))


class WindowAttention:
    """Every token of the window attends every other, and what is remembered, unless the view has a core of its own.

    Args:
        view: What it attends.
    """

    def __init__(self, view: View | None = None) -> None:
        self._view = view or View()
        self.rotates = self._view.recorder is not None
        self.repeats = self._view.core is None

    def __call__(
        self, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, cos_BSP: Tensor, sin_BSP: Tensor
    ) -> Tensor:
        """See `AttentionOp`."""
        heads = range(k_BSND.shape[2])
        if self._view.recorder is not None:
            self._view.recorder.write(k_BSND, v_BSND, layer=layer, heads=heads)
            q_BSND, k_BSND = (rotate(part_BSND, cos_BSP, sin_BSP) for part_BSND in (q_BSND, k_BSND))
        return self._view.attend(q_BSND, k_BSND, v_BSND, layer=layer, heads=heads)
