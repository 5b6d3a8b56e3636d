"""One forward over chunks of clips, each with its own noise level, prompt and memory.

Shape suffixes: B prompts or clips, R rows (seats x B, seats first), K text slots, N heads, D head width, C channels,
T latent frames of a chunk, H/W latent height/width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from examples.train_sprites.chunk_attention import Bank, ChunkAttention, Seat
from reelray.proto.memory_rule import MemoryRule
from reelray.workers.models.wan.rope import Positions
from reelray.workers.models.wan.text_context import TextContext
from reelray.workers.models.wan.transformer import WanTransformer


@dataclass(frozen=True, kw_only=True, slots=True)
class Streaming:
    """How a stream is cut and remembered.

    Args:
        rule: Memory.
        size: Latent frames of a chunk.
    """

    rule: MemoryRule
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What a forward is given.

    Args:
        latents: Noisy or clean chunks [R, C, T, H, W].
        timesteps: Timestep in [0, 1000] of each [R]; 0 for clean ones.
        text: Prompts, a row each.
    """

    latents: Tensor
    timesteps: Tensor
    text: TextContext


def select_rows(context: TextContext, index_R: Tensor) -> TextContext:
    """Rows of a context, in any order, any of them several times."""
    return replace(
        context,
        keys=tuple(keys_BKND.index_select(0, index_R) for keys_BKND in context.keys),
        values=tuple(values_BKND.index_select(0, index_R) for values_BKND in context.values),
        bias=None if context.bias is None else context.bias.index_select(0, index_R),
    )


def evaluate_seats(
    transformer: WanTransformer, streaming: Streaming, seats: Sequence[Seat], rows: Rows, *, bank: Bank | None = None
) -> Tensor:
    """Predict the flow of every row.

    Args:
        transformer: The weights.
        streaming: Chunks and memory.
        seats: Which chunks the rows are.
        rows: Of all seats, one seat's after the other.
        bank: What is remembered already; clean seats are added to it.

    Returns:
        Float32, shape of the latents.
    """
    size, clips = streaming.size, len(rows.latents) // len(seats)
    starts = torch.tensor([seat.chunk * size for seat in seats], device=rows.latents.device)
    frames_RT = (starts[:, None] + torch.arange(size, device=starts.device)).repeat_interleave(clips, 0)
    attention = ChunkAttention(streaming.rule, size, seats, transformer.rope, bank)
    prediction: Tensor = transformer(
        rows.latents, rows.timesteps, rows.text, positions=Positions(frames=frames_RT), attention=attention
    )
    return prediction.float()
