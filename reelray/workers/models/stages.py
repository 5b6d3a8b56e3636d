"""The seam through which a transformer runs some of its layers here and the others elsewhere. It never asks where.

Shape suffixes: B batch, S tokens, C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from reelray.workers.models.attention_op import AttentionOp
from reelray.workers.models.sharding import TokenShard


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenFacts:
    """What must be known of a tensor of tokens before it arrives.

    Args:
        shape: B, S, C.
        dtype: Its dtype.
        device: Where it lies.
    """

    shape: tuple[int, int, int]
    dtype: torch.dtype
    device: torch.device

    def empty(self) -> Tensor:
        """Room for it."""
        return torch.empty(self.shape, dtype=self.dtype, device=self.device)


class Forward(Protocol):
    """One evaluation of a transformer, not yet run, cut where it can be handed over.

    Attributes:
        layers: Layers of the whole model.
        grid: Latent frames of the window, and tokens of each.
        stream: The residual stream between two layers.
        predicted: What `predict` returns.
        attention: Self-attention of the tokens that are worked on here.
        shard: The tokens of the window that are here.
        variables: Every tensor it reads that differs from one evaluation to the next.
        constants: Every other tensor it reads besides weights: what a prompt or an image left, never written to.
    """

    @property
    def layers(self) -> int:
        """See the class."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """See the class."""
        ...

    @property
    def stream(self) -> TokenFacts:
        """See the class."""
        ...

    @property
    def predicted(self) -> TokenFacts:
        """See the class."""
        ...

    @property
    def attention(self) -> AttentionOp:
        """See the class."""
        ...

    @property
    def shard(self) -> TokenShard:
        """See the class."""
        ...

    @property
    def variables(self) -> tuple[Tensor, ...]:
        """See the class."""
        ...

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """See the class."""
        ...

    def reading(self, variables: Sequence[Tensor], constants: Sequence[Tensor]) -> "Forward":
        """The same evaluation of other tensors, of the same shapes and in the same order."""
        ...

    def cut(self, take: Callable[[Tensor], Tensor] | None, attention: AttentionOp) -> "Forward":
        """The same evaluation for some of its tokens.

        Args:
            take: Cuts these tokens out of all tokens here; None keeps all.
            attention: Their self-attention.
        """
        ...

    def embed(self) -> Tensor:
        """Make the residual stream before the first layer."""
        ...

    def run(self, x_BSC: Tensor, layers: range) -> Tensor:
        """Carry the residual stream through some layers, which must be here."""
        ...

    def predict(self, x_BSC: Tensor) -> Tensor:
        """Turn the residual stream after the last layer into patches [B, S, C].

        Of a whole window they are those of all its tokens, of a cut one those of its own.
        """
        ...

    def assemble(self, patches_BSC: Tensor) -> Tensor:
        """Put the patches of the whole window together to its prediction [B, C, T, H, W]."""
        ...


class Stages(Protocol):
    """Evaluates a forward; where its layers are spread, all who have some must ask for it together."""

    def evaluate(self, forward: Forward) -> Tensor:
        """Run all layers and return the prediction [B, C, T, H, W]."""
        ...

    def forget(self) -> None:
        """Free what was kept from one evaluation for the next; before groups of ranks end."""
        ...


class WholeModel:
    """All layers, here: implements `Stages`."""

    def forget(self) -> None:
        """See `Stages`; nothing is kept."""

    def evaluate(self, forward: Forward) -> Tensor:
        """See `Stages`."""
        x_BSC = forward.run(forward.embed(), range(forward.layers))
        return forward.assemble(forward.predict(x_BSC))
