"""Attention that thins out with the distance of two frames.

Shape suffixes: Q blocks of queries, G blocks of keys, A blocks of queries with rows in a frame, C columns of a frame.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reelray.proto.sparsity import TokenOrderKind
from reelray.workers.acceleration.sparsity.router import Blocking

FINEST = 128
"""Tokens; where a window would be narrower, whole frames are left out instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Radial:
    """Radial Attention (arXiv 2506.19852), by the rule of its published code.

    A frame attends another within a band around the diagonal, which halves each time their distance doubles, but is at
    least a block wide; where it would be narrower, only every second, fourth, ... distance is attended. The first frame
    is attended by all. A block is taken for a pair of frames where more than 60 % of the columns that have anything
    have more than a third of the block's rows.

    Unlike the published code, blocks at the end of a frame and of the sequence are not left out, and the rows of the
    last block are counted against its own length.

    Args:
        decay: Width of the band against the rule's own.
        near_frames: Frames at this distance are attended fully (1, Hunyuan's rule); with 0 the next frame is attended
            within half a frame (Wan's rule).
    """

    decay: float = 0.2
    near_frames: int = 0

    def mask(self, blocking: Blocking, heads: range) -> Tensor:
        """See `Pattern`.

        Raises:
            ValueError: The order is not frame-major.
        """
        del heads
        order = blocking.order
        places = torch.arange(order.places, device=order.token_P.device)
        if order.length_T is not None or not torch.equal(order.token_P, places):
            raise ValueError(f"radial takes the order {TokenOrderKind.FRAMES}; this one is another")
        frames = order.grid[0]
        mask_QG = torch.zeros_like(blocking.keep_QG)
        for query in range(frames):
            for key in range(frames):
                width = self.band(abs(query - key), order.tokens // frames, blocking.queries.rows, is_sink=key == 0)
                if width is not None:
                    _add_pair(mask_QG, blocking, query, key, width)
        return mask_QG[None]

    def band(self, distance: int, frame: int, block: int, *, is_sink: bool) -> int | None:
        """Tokens on each side of the diagonal that two frames attend; None where they do not.

        Args:
            distance: Of the frames.
            frame: Tokens of a frame.
            block: Tokens of a block.
            is_sink: Whether the keys are those of the first frame.
        """
        if is_sink:
            return frame
        natural = 2.0 ** (frame.bit_length() - distance.bit_length())
        if natural < FINEST and distance % int(FINEST / natural):
            return None
        if distance <= 1:
            return frame if distance <= self.near_frames else frame // 2
        return math.floor(max(natural * self.decay, block))


def _add_pair(mask_QG: Tensor, blocking: Blocking, query: int, key: int, width: int) -> None:
    """Take the blocks of one pair of frames."""
    queries, keys = blocking.queries, blocking.keys
    frame = blocking.order.tokens // blocking.order.grid[0]
    device = mask_QG.device
    first = query * frame // queries.rows
    number_A = torch.arange(first, ((query + 1) * frame - 1) // queries.rows + 1, device=device)[:, None]
    low_A = (number_A * queries.rows - query * frame).clamp(min=0)
    high_A = ((number_A + 1) * queries.rows - query * frame).clamp(max=frame) - 1
    column_C = torch.arange(frame, device=device)
    rows_AC = (torch.minimum(high_A, column_C + width) - torch.maximum(low_A, column_C - width) + 1).clamp(min=0)
    block_C = (column_C + key * frame) // keys.rows
    first_key = key * frame // keys.rows
    blocks = ((key + 1) * frame - 1) // keys.rows + 1 - first_key
    into_AC = (block_C - first_key).expand(len(number_A), -1)
    nothing = torch.zeros((len(number_A), blocks), dtype=torch.int32, device=device)
    is_high_AC = 3 * rows_AC > queries.length_G[number_A]
    high = nothing.scatter_add(1, into_AC, is_high_AC.int())
    any_ = nothing.scatter_add(1, into_AC, (rows_AC > 0).int())
    mask_QG[first : first + len(number_A), first_key : first_key + blocks] |= 5 * high > 3 * any_
