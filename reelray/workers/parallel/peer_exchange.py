"""The Ulysses exchange through the memory of the peers; see `exchange` for the one by collectives.

Two meetings a layer are enough. Who comes to the first has read what the layer before sent back; who comes to the
second has attended what was sent for it. Shape suffixes: B batch, S tokens of this rank, K all tokens of the block,
N heads, D head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from reelray.kernels.to_peers.api import put_heads, put_tokens
from reelray.kernels.to_peers.spread import Spread
from reelray.workers.parallel.exchange import Exchange, HeadRanges, WholeExchange
from reelray.workers.parallel.mesh import AxisGroup
from reelray.workers.parallel.peer_memory import PeerMemory
from reelray.workers.parallel.token_split import TokenSplit


def open_exchange(
    group: AxisGroup, split: TokenSplit, heads: HeadRanges, *, collectives: bool = False
) -> "PeerExchange | WholeExchange":
    """Exchange through the memory of the peers, or by collectives where they share none.

    Args:
        group: The ulysses axis.
        split: Tokens of the window.
        heads: Heads of each rank.
        collectives: Use them in any case.
    """
    if group.peer_memory is None or collectives:
        return WholeExchange(Exchange(group=group, frames=split.frames, places=split.block_places), heads)
    spread = Spread(frames=split.frames, places=split.block_places, heads=heads, index=group.index)
    return PeerExchange(group.peer_memory, spread)


class PeerExchange:
    """Both directions; every rank of the axis calls them in the same order.

    Args:
        memory: Of the axis.
        spread: Tokens and heads of its ranks.
    """

    def __init__(self, memory: PeerMemory, spread: Spread) -> None:
        self._memory = memory
        self._spread = spread

    def to_heads(self, parts_BSND: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give this rank's tokens and get its heads.

        Args:
            parts_BSND: Tensors of one shape, all heads of this rank's tokens.

        Returns:
            The same with all tokens and this rank's heads [B, K, N, D]; valid until `to_tokens` has been called.
        """
        spread, (batch, _, _, width) = self._spread, parts_BSND[0].shape
        tokens, most = spread.frames * spread.all_places, max(map(len, spread.heads))
        rooms = self._memory.room("heads", len(parts_BSND) * batch * tokens * most * width, parts_BSND[0].dtype)
        put_heads(parts_BSND, rooms, spread)
        self._memory.meet()
        shape = torch.Size((len(parts_BSND), batch, tokens, len(spread.mine), width))
        return rooms.mine[: shape.numel()].view(shape).unbind(0)

    def to_tokens(self, mixed_BKND: Tensor) -> Tensor:
        """Give this rank's heads and get its tokens.

        Args:
            mixed_BKND: All tokens, heads of this rank.

        Returns:
            All heads of this rank's tokens [B, S, N, D]; valid until the next call on these ranks.
        """
        spread, (batch, _, _, width) = self._spread, mixed_BKND.shape
        most = spread.frames * max(spread.places)
        rooms = self._memory.room("tokens", batch * most * spread.all_heads * width, mixed_BKND.dtype)
        put_tokens(mixed_BKND, rooms, spread)
        self._memory.meet()
        shape = torch.Size((batch, spread.frames * spread.places[spread.index], spread.all_heads, width))
        return rooms.mine[: shape.numel()].view(shape)
