"""Puts a window's heads and tokens into the memory of the ranks that want them: Triton on CUDA, torch elsewhere.

Nobody waits here. What was put is there for a rank when it has met the others afterwards, see `meet`; a room may be put
to again when all have met after reading it. Shape suffixes: B batch, S tokens of this rank, K all tokens, N heads,
D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from reelray.kernels.to_peers import reference
from reelray.kernels.to_peers.spread import Spread

MOST_PARTS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Rooms:
    """Memory of every rank of a group, as one of them sees it; all of one size.

    Args:
        mine: Flat memory of this rank.
        pointers: Where that of each rank begins, int64 on the device; None where torch copies.
        tensors: That of each rank, where torch copies.
    """

    mine: Tensor
    pointers: Tensor | None = None
    tensors: tuple[Tensor, ...] = ()


def put_heads(parts_BSND: Sequence[Tensor], rooms: Rooms, spread: Spread) -> None:
    """Put every rank's heads of this rank's tokens into that rank's room; see `reference.put_heads`.

    Raises:
        ValueError: There are more than four parts, they differ, or a room is too small.
    """
    if len({(part.shape, part.dtype) for part in parts_BSND}) != 1 or len(parts_BSND) > MOST_PARTS:
        raise ValueError(f"1 to {MOST_PARTS} tensors of one shape and dtype are wanted, not {len(parts_BSND)}")
    batch, _, _, width = parts_BSND[0].shape
    tokens, most = spread.frames * spread.all_places, max(map(len, spread.heads))
    _check(rooms, parts_BSND[0], len(parts_BSND) * batch * tokens * most * width)
    if rooms.pointers is None:
        reference.put_heads(parts_BSND, rooms.tensors, spread)
        return
    from reelray.kernels.to_peers import triton as kernels  # noqa: PLC0415  (triton exists on GPU machines only)

    kernels.put_heads(parts_BSND, rooms.pointers, spread)


def put_tokens(mixed_BKND: Tensor, rooms: Rooms, spread: Spread) -> None:
    """Put this rank's heads of every rank's tokens into that rank's room; see `reference.put_tokens`.

    Raises:
        ValueError: A room is too small.
    """
    batch, _, _, width = mixed_BKND.shape
    _check(rooms, mixed_BKND, batch * spread.frames * max(spread.places) * spread.all_heads * width)
    if rooms.pointers is None:
        reference.put_tokens(mixed_BKND, rooms.tensors, spread)
        return
    from reelray.kernels.to_peers import triton as kernels  # noqa: PLC0415  (triton exists on GPU machines only)

    kernels.put_tokens(mixed_BKND, rooms.pointers, spread)


def meet(pads: Tensor, turn: Tensor, stop: Tensor, index: int) -> None:
    """Wait on the device until all ranks of a group have come here as often as this one; see `triton.meet`.

    Args:
        pads: Where each rank's pad begins, int64; a pad has one int32 for each rank, 0 at first.
        turn: How often this rank has met the others, one int32.
        stop: One int32; what is not 0 ends the wait, and what the others put is then not there.
        index: This rank.
    """
    from reelray.kernels.to_peers import triton as kernels  # noqa: PLC0415  (triton exists on GPU machines only)

    kernels.meet(pads, turn, stop, index)


def _check(rooms: Rooms, sample: Tensor, elements: int) -> None:
    mine = rooms.mine
    if mine.numel() < elements or mine.dtype != sample.dtype:
        raise ValueError(f"rooms of {mine.numel()} elements, {mine.dtype}, for {elements}, {sample.dtype}")
