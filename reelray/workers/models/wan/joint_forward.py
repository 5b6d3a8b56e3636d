"""Windows of several requests in one evaluation of the Wan transformer: as one batch, or row by row in step.

Shape suffixes: B batch, S tokens, C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reelray.workers.models.attention_op import AttentionOp
from reelray.workers.models.joint_rows import JointShard
from reelray.workers.models.sharding import TokenShard
from reelray.workers.models.stages import TokenFacts
from reelray.workers.models.wan.rope import Positions
from reelray.workers.models.wan.text_context import ContextRows, CrossContext
from reelray.workers.models.wan.window_forward import WanForward

if TYPE_CHECKING:
    from reelray.workers.models.wan.block import Due


def stack_forwards(forwards: Sequence[WanForward]) -> WanForward:
    """One batch of windows of one size: products see all rows at once, attention each by itself.

    Args:
        forwards: Of one row each.
    """
    first = forwards[0]
    shard = JointShard(rows=tuple(forward.shard for forward in forwards))
    return WanForward(
        transformer=first.transformer,
        latents_BCTHW=torch.cat([forward.latents_BCTHW for forward in forwards]),
        timestep_BG=torch.cat([forward.timestep_BG for forward in forwards]),
        positions=Positions(frames=torch.cat([forward.positions.frames for forward in forwards])),
        text=_stack([forward.text for forward in forwards]),
        image=None if first.image is None else _stack([forward.image for forward in forwards]),
        attention=shard.attention,
        shard=shard,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ForwardsInStep:
    """Implements `Forward`: every layer takes one row after the other, each as if it were alone.

    No operation sees two rows, so each gets the bits that it gets alone, on any device and by any kernel. What rows
    share is the way of the weights: a layer that has to be brought is brought once.

    Args:
        rows: Evaluations of one row each.
    """

    rows: tuple[WanForward, ...]

    @property
    def layers(self) -> int:
        """See `Forward`."""
        return self.rows[0].layers

    @property
    def grid(self) -> tuple[int, int]:
        """See `Forward`."""
        return self.rows[0].grid

    @property
    def stream(self) -> TokenFacts:
        """See `Forward`."""
        return self._of_all(self.rows[0].stream)

    @property
    def predicted(self) -> TokenFacts:
        """See `Forward`."""
        return self._of_all(self.rows[0].predicted)

    @property
    def attention(self) -> AttentionOp:
        """See `Forward`."""
        return self.shard.attention

    @property
    def shard(self) -> TokenShard:
        """See `Forward`; not equal to that of a batch, whose recording is another."""
        return _InStep(rows=tuple(row.shard for row in self.rows))

    @property
    def variables(self) -> tuple[Tensor, ...]:
        """See `Forward`."""
        return tuple(tensor for row in self.rows for tensor in row.variables)

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """See `Forward`."""
        return tuple(tensor for row in self.rows for tensor in row.constants)

    def reading(self, variables: Sequence[Tensor], constants: Sequence[Tensor]) -> "ForwardsInStep":
        """See `Forward`."""
        rows = []
        for row in self.rows:
            one, other = len(row.variables), len(row.constants)
            rows.append(row.reading(variables[:one], constants[:other]))
            variables, constants = variables[one:], constants[other:]
        return ForwardsInStep(rows=tuple(rows))

    def cut(self, take: Callable[[Tensor], Tensor] | None, attention: AttentionOp) -> "ForwardsInStep":
        """See `Forward`."""
        return ForwardsInStep(rows=tuple(row.cut(take, attention) for row in self.rows))

    def embed(self) -> Tensor:
        """See `Forward`."""
        return torch.cat([row.embed() for row in self.rows])

    def run(self, x_BSC: Tensor, layers: range) -> Tensor:
        """See `Forward`."""
        transformer = self.rows[0].transformer
        # Rows of their own: some products go another way where memory is aligned otherwise.
        streams = [x_1SC.clone() for x_1SC in torch.split(x_BSC, 1)]
        dues: list[Due | None] = [None] * len(streams)
        for layer in layers:
            block = transformer.block(layer)
            for number, row in enumerate(self.rows):
                streams[number], dues[number] = block(streams[number], row.inputs, layer, dues[number])
        ends = zip(streams, dues, strict=True)
        return torch.cat([x_1SC if due is None else transformer.ops.add_gated(x_1SC, *due) for x_1SC, due in ends])

    def predict(self, x_BSC: Tensor) -> Tensor:
        """See `Forward`."""
        streams = zip(self.rows, torch.split(x_BSC, 1), strict=True)
        return torch.cat([row.predict(x_1SC.clone()) for row, x_1SC in streams])

    def assemble(self, patches_BSC: Tensor) -> Tensor:
        """See `Forward`."""
        return self.rows[0].assemble(patches_BSC)

    def _of_all(self, facts: TokenFacts) -> TokenFacts:
        _, tokens, channels = facts.shape
        return replace(facts, shape=(len(self.rows), tokens, channels))


@dataclass(frozen=True, kw_only=True, slots=True)
class _InStep(JointShard):
    """Of rows that are not one batch."""


def _stack(contexts: Sequence[object]) -> ContextRows:
    rows = tuple(context for context in contexts if isinstance(context, CrossContext))
    assert len(rows) == len(contexts), "rows of a batch are of one request each"
    return ContextRows(contexts=rows)
