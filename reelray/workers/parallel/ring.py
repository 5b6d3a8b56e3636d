"""Ring attention: keys and values go round, queries stay.

Shape suffixes: B batch, S query tokens, K key tokens, N heads, D head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist

from reelray.kernels.attention.lse import attend_with_lse, merge_partials
from reelray.workers.parallel.mesh import AxisGroup


def attend_ring(  # noqa: PLR0917  (queries, keys and values are one argument in three)
    q_BSND: Tensor,
    k_BKND: Tensor,
    v_BKND: Tensor,
    ring: AxisGroup,
    keys: Sequence[int],
    here: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Attend the keys of all ranks of the ring axis; every rank of it must call this.

    Each rank holds one block of keys and values. While it attends a block it sends it to the next rank and gets the one
    before it; results are merged in float32 by the logs of their sums. Ring attention: arXiv 2310.01889.

    Args:
        q_BSND: Queries of this rank.
        k_BKND: Keys of this rank.
        v_BKND: Values of this rank.
        ring: The ring axis.
        keys: Keys of every rank's block.
        here: Keys and values of this rank and of what all ranks have besides, which is not passed on.

    Returns:
        Mixed values, shape and dtype of `q_BSND`.
    """
    batch, _, heads, width = k_BKND.shape
    shapes = [(2, batch, count, heads, width) for count in keys]
    # Two blocks: the one attended and sent, and the one that arrives. A block is overwritten only after both its
    # neighbour has it and it was attended.
    buffers = k_BKND.new_empty(2, 2 * batch * max(keys) * heads * width)
    block = _view(buffers[0], shapes[ring.index])
    block[0].copy_(k_BKND)
    block[1].copy_(v_BKND)
    mixed_BSND, lse_BSN = None, None
    for step in range(ring.size):
        flights: list[dist.Work] = []
        following = block
        if step + 1 < ring.size:
            following = _view(buffers[(step + 1) % 2], shapes[(ring.index - step - 1) % ring.size])
            flights = _pass_on(block, following, ring)
        attended = here if step == 0 and here is not None else (block[0], block[1])
        found_BSND, found_BSN = attend_with_lse(q_BSND, *attended)
        if mixed_BSND is None or lse_BSN is None:
            mixed_BSND, lse_BSN = found_BSND, found_BSN
        else:
            dtype = torch.float32 if step + 1 < ring.size else q_BSND.dtype
            mixed_BSND, lse_BSN = merge_partials(mixed_BSND, lse_BSN, found_BSND, found_BSN, dtype=dtype)
        for flight in flights:
            flight.wait()
        block = following
    assert mixed_BSND is not None
    return mixed_BSND


def _view(buffer: Tensor, shape: tuple[int, ...]) -> Tensor:
    return buffer[: torch.Size(shape).numel()].view(shape)


def _pass_on(block: Tensor, following: Tensor, ring: AxisGroup) -> list[dist.Work]:
    group = ring.process_group
    to, source = ring.ranks[(ring.index + 1) % ring.size], ring.ranks[ring.index - 1]
    works: list[dist.Work] = dist.batch_isend_irecv(
        [dist.P2POp(dist.isend, block, to, group), dist.P2POp(dist.irecv, following, source, group)]
    )
    return works
