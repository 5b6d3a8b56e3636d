"""The seams through which a model works on a part of its tokens or pictures. It never asks who has the others.

Shape suffixes: B batch, S tokens, C channels, T latent or pixel frames, H/W height/width.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from reelray.workers.models.attention_op import AttentionOp, TokenOrder, View, WindowAttention


class TokenShard(Protocol):
    """The tokens of one forward that are worked on here.

    Attributes:
        attention: Self-attention of these tokens over all tokens of the window.
        peers: Equal for shards of the same ranks, and for no other.
    """

    @property
    def attention(self) -> AttentionOp:
        """See the class."""
        ...

    @property
    def peers(self) -> Hashable:
        """See the class."""
        ...

    def agree(self, *, own: bool) -> bool:
        """Whether it is so on every rank that shares this window, all of which must call this."""
        ...

    def widest(self, own: int) -> int:
        """Tokens of the rank that has most.

        Args:
            own: How many these are.
        """
        ...

    def take(self, tokens_BSC: Tensor) -> Tensor:
        """Cut these tokens out of all tokens of the window.

        Args:
            tokens_BSC: Latent frame by latent frame; each frame keeps as many tokens as every other.
        """
        ...

    def join(self, tokens_BSC: Tensor) -> Tensor:
        """Put what was predicted for these tokens together with all others; the reverse of `take`."""
        ...


class Sharding(Protocol):
    """Makes the shard of each forward."""

    def shard(self, frames: int, places: int, view: View | None = None) -> TokenShard:
        """Take a part; the same object for the same arguments.

        Args:
            frames: Latent frames of the window.
            places: Tokens of one latent frame.
            view: What the window has to do with memory.

        Raises:
            SizeError: There are too few tokens to share.
        """
        ...


class WholeWindow:
    """All tokens: implements both `Sharding` and `TokenShard`.

    Args:
        attention: Of the window; dense by default.
        maker: The shard of the same ranks of which this one is a view.
    """

    def __init__(self, attention: AttentionOp | None = None, *, maker: "WholeWindow | None" = None) -> None:
        self.attention: AttentionOp = attention or WindowAttention()
        self._maker = maker

    def shard(self, frames: int, places: int, view: View | None = None) -> TokenShard:
        """See `Sharding`."""
        del frames, places
        if view is None:
            return self
        if WholeWindow not in view.made:
            view.made[WholeWindow] = in_order_of(view, WholeWindow(WindowAttention(view), maker=self))
        shard: TokenShard = view.made[WholeWindow]
        return shard

    @property
    def peers(self) -> Hashable:
        """See `TokenShard`."""
        return self._maker or self

    def agree(self, *, own: bool) -> bool:
        """See `TokenShard`."""
        return own

    def widest(self, own: int) -> int:
        """See `TokenShard`."""
        return own

    def take(self, tokens_BSC: Tensor) -> Tensor:
        """See `TokenShard`."""
        return tokens_BSC

    def join(self, tokens_BSC: Tensor) -> Tensor:
        """See `TokenShard`."""
        return tokens_BSC


class OrderedWindow:
    """Implements `TokenShard`: the tokens of a window in the order that its core wants, shared as before.

    Args:
        shard: Of a window whose tokens are all of one latent frame, so that any order will do.
        order: The order.
    """

    def __init__(self, shard: TokenShard, order: TokenOrder) -> None:
        self._shard, self._order = shard, order

    @property
    def attention(self) -> AttentionOp:
        """See `TokenShard`."""
        return self._shard.attention

    @property
    def peers(self) -> Hashable:
        """See `TokenShard`."""
        return self._shard.peers

    def agree(self, *, own: bool) -> bool:
        """See `TokenShard`."""
        return self._shard.agree(own=own)

    def widest(self, own: int) -> int:
        """See `TokenShard`."""
        return self._shard.widest(own)

    def take(self, tokens_BSC: Tensor) -> Tensor:
        """See `TokenShard`."""
        return self._shard.take(self._order.take(tokens_BSC))

    def join(self, tokens_BSC: Tensor) -> Tensor:
        """See `TokenShard`."""
        return self._order.join(self._shard.join(tokens_BSC))


def in_order_of(view: View, shard: TokenShard) -> TokenShard:
    """The shard with the tokens in the order that the view's core wants, if it wants one."""
    return shard if view.core is None or view.core.order is None else OrderedWindow(shard, view.core.order)


class PictureSharing(Protocol):
    """Decodes pictures together with other ranks, all of which make the same calls."""

    def fits(self, latent_rows: int) -> bool:
        """Whether pictures of this height can be shared."""
        ...

    def decode(self, vae: Any, latents_BCTHW: Tensor, state: Any) -> Tensor | None:
        """Decode the next latent frames.

        Args:
            vae: A decoder that can work on some rows of a picture.
            latents_BCTHW: Raw latents of the whole picture.
            state: This rank's, of its rows.

        Returns:
            Levels of the whole picture [B, T, H, W, C], uint8; None on a rank that does not collect them.
        """
        ...

    def gather_state(self, vae: Any, state: Any, latent_rows: int) -> Any:
        """The state of the whole picture; None on a rank that does not collect it."""
        ...

    def cut_state(self, vae: Any, whole: Any, latent_rows: int) -> Any:
        """This rank's part of a whole picture's state."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeParts:
    """A decode state taken apart, so that it can go to other ranks.

    Args:
        facts: What is no tensor; can be pickled.
        slots: The tensors; of a shared picture this rank's rows, margins included, which are dim 3.
        splits: Whether ranks that share the picture hold their rows of the slots only. Otherwise each holds them whole.
    """

    facts: Any
    slots: tuple[Tensor, ...]
    splits: bool
