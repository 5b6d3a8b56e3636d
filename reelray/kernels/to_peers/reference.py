"""The exchange of a window between ranks, by torch's copies into memory of every rank.

Shape suffixes: P parts (queries, keys, values), B batch, S tokens of this rank, K all tokens, T latent frames, N heads,
D head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from reelray.kernels.to_peers.spread import Spread


def put_heads(parts_BSND: Sequence[Tensor], rooms: Sequence[Tensor], spread: Spread) -> None:
    """Put every rank's heads of this rank's tokens into that rank's room, which ends up as [P, B, K, N of it, D].

    Args:
        parts_BSND: Tensors of one shape and dtype, all heads of this rank's tokens.
        rooms: Flat memory of each rank, at least as long as what comes there, of their dtype.
        spread: Who has what.
    """
    batch, _, _, width = parts_BSND[0].shape
    first, held = spread.first_places[spread.index], spread.places[spread.index]
    for room, heads in zip(rooms, spread.heads, strict=True):
        shape = (len(parts_BSND), batch, spread.frames, spread.all_places, len(heads), width)
        there_PBTKND = room[: _count(shape)].view(shape)
        for number, part_BSND in enumerate(parts_BSND):
            by_frame = torch.unflatten(part_BSND[:, :, heads.start : heads.stop], 1, (spread.frames, held))
            there_PBTKND[number, :, :, first : first + held] = by_frame


def put_tokens(mixed_BKND: Tensor, rooms: Sequence[Tensor], spread: Spread) -> None:
    """Put this rank's heads of every rank's tokens into that rank's room, which ends up as [B, S of it, N, D].

    Args:
        mixed_BKND: All tokens, heads of this rank.
        rooms: Flat memory of each rank, at least as long as what comes there, of its dtype.
        spread: Who has what.
    """
    batch, _, _, width = mixed_BKND.shape
    by_frame = torch.unflatten(mixed_BKND, 1, (spread.frames, spread.all_places))
    mine = spread.mine
    for room, first, held in zip(rooms, spread.first_places, spread.places, strict=False):
        shape = (batch, spread.frames, held, spread.all_heads, width)
        room[: _count(shape)].view(shape)[:, :, :, mine.start : mine.stop] = by_frame[:, :, first : first + held]


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
