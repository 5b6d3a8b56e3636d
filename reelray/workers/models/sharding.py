"""The seam through which a transformer works on a part of its tokens. It never asks who has the others.

Shape suffixes: B batch, S tokens, C channels.
"""

from typing import Protocol

from torch import Tensor

from reelray.workers.models.attention_op import AttentionOp, DenseAttention


class TokenShard(Protocol):
    """The tokens of one forward that are worked on here.

    Attributes:
        attention: Self-attention of these tokens over all tokens of the window.
    """

    @property
    def attention(self) -> AttentionOp:
        """See the class."""
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

    def shard(self, frames: int, places: int) -> TokenShard:
        """Take a part.

        Args:
            frames: Latent frames of the window.
            places: Tokens of one latent frame.

        Raises:
            SizeError: There are too few tokens to share.
        """
        ...


class WholeWindow:
    """All tokens: implements both `Sharding` and `TokenShard`."""

    def __init__(self) -> None:
        self.attention: AttentionOp = DenseAttention()

    def shard(self, frames: int, places: int) -> TokenShard:
        """See `Sharding`."""
        del frames, places
        return self

    def take(self, tokens_BSC: Tensor) -> Tensor:
        """See `TokenShard`."""
        return tokens_BSC

    def join(self, tokens_BSC: Tensor) -> Tensor:
        """See `TokenShard`."""
        return tokens_BSC
