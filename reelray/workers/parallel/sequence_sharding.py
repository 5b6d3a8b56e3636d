"""Sequence parallelism of a forward: which tokens this rank takes and how the prediction becomes whole.

Shape suffixes: B batch, S tokens, C channels, R ranks.
"""

from collections.abc import Hashable

import torch
from torch import Tensor
from torch import distributed as dist

from reelray.workers.models.attention_op import AttentionOp, View
from reelray.workers.models.sharding import TokenShard, in_order_of
from reelray.workers.parallel.attention_choice import AttentionFactory, make_ours
from reelray.workers.parallel.exchange import gather_places
from reelray.workers.parallel.mesh import AxisGroup, Lane
from reelray.workers.parallel.sequence_attention import SequenceAttention
from reelray.workers.parallel.token_split import TokenSplit


class SequenceSharding:
    """Implements `Sharding` on the ring and ulysses axes of a lane.

    Args:
        lane: This rank's groups.
        make_attention: Makes the attention of a window, the same kind on every rank.
    """

    def __init__(self, lane: Lane, *, make_attention: AttentionFactory = make_ours) -> None:
        self._lane = lane
        self._make_attention = make_attention
        self._shards: dict[tuple[int, int], TokenShard] = {}

    def shard(self, frames: int, places: int, view: View | None = None) -> TokenShard:
        """Take this rank's part of a window; the same object for each window of a size and view.

        Raises:
            SizeError: A latent frame has fewer tokens than there are ranks.
            UnsupportedError: The chosen attention cannot share these tokens exactly.
        """
        if view is not None and view.core is not None and view.core.order is not None:
            # In another order frames do not lie apart; each rank takes consecutive tokens of that order.
            frames, places = 1, view.core.order.places
        shards = self._shards if view is None else view.made.setdefault(self, {})
        if (frames, places) not in shards:
            shards[frames, places] = self._make(frames, places, view)
        return shards[frames, places]

    def _make(self, frames: int, places: int, view: View | None) -> TokenShard:
        lane = self._lane
        split = TokenSplit(
            frames=frames,
            places=places,
            ring=lane.ring.size,
            ulysses=lane.ulysses.size,
            index=lane.sequence.index,
        )
        attention = self._make_attention(lane, split) if view is None else SequenceAttention(lane, split, view=view)
        shard = SequenceShard(split, lane.sequence, lane.sequence.device, attention)
        return shard if view is None else in_order_of(view, shard)


class SequenceShard:
    """Implements `TokenShard`.

    Args:
        split: Tokens of this rank.
        group: Ranks that share the window.
        device: Where its collectives run.
        attention: Attention over all of them.
    """

    def __init__(self, split: TokenSplit, group: AxisGroup, device: torch.device, attention: AttentionOp) -> None:
        self._split = split
        self._device = device
        self._group = group
        self.attention = attention

    @property
    def peers(self) -> Hashable:
        """See `TokenShard`."""
        return self._group

    def agree(self, *, own: bool) -> bool:
        """See `TokenShard`."""
        if self._group.size == 1:
            return own
        vote = torch.tensor([int(own)], device=self._device)
        dist.all_reduce(vote, op=dist.ReduceOp.MIN, group=self._group.process_group)
        return bool(vote.item())

    def widest(self, own: int) -> int:
        """See `TokenShard`."""
        del own
        return self._split.frames * max(map(len, self._split.shares))

    def take(self, tokens_BSC: Tensor) -> Tensor:
        """See `TokenShard`."""
        return self._split.take(tokens_BSC)

    def join(self, tokens_BSC: Tensor) -> Tensor:
        """Gather the tokens of all sequence ranks, all of which must call this; see `TokenShard`."""
        held = [len(share) for share in self._split.shares]
        return gather_places(tokens_BSC, self._group, frames=self._split.frames, held=held)
