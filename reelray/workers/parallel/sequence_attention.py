"""Self-attention over the tokens of all ranks: Ulysses inside, ring outside.

Shape suffixes: B batch, S tokens of this rank, N heads, D head width, P rotated pairs of a head.
"""

import torch
from torch import Tensor

from reelray.kernels.norm_rope.api import rotate
from reelray.proto.errors import UnsupportedError
from reelray.workers.models.attention_op import View
from reelray.workers.parallel.exchange import Exchange, HeadRanges, ToHeads, ToTokens, gather_places, plan_heads
from reelray.workers.parallel.mesh import Lane
from reelray.workers.parallel.peer_exchange import open_exchange
from reelray.workers.parallel.ring import attend_ring
from reelray.workers.parallel.token_split import TokenSplit


class SequenceAttention:
    """Implements `AttentionOp` for a lane; all its sequence ranks call it in the same order.

    USP (arXiv 2405.07719). Ranks that share memory exchange through it. Others, and those that are told to, exchange by
    collectives, with the head-group overlap of PipeSP (arXiv 2511.12056): while one group of heads attends, the next
    one travels. The result does not depend on the way.

    Args:
        lane: This rank's groups.
        split: Tokens of the window and of this rank.
        head_groups: Groups of heads that are exchanged by collectives; more hide more of the exchange behind attention
            and make smaller kernels. 0 exchanges through the memory of the peers, or in one group where they share
            none.
        view: What is attended. Its memory holds the heads that this rank computes, of all tokens: a ring passes on the
            window's alone, and gathers them where they are recorded.

    Raises:
        UnsupportedError: The view has a core of its own, and a ring has no rank with all keys of a head.
    """

    def __init__(self, lane: Lane, split: TokenSplit, *, head_groups: int = 0, view: View | None = None) -> None:
        if head_groups < 0:
            raise ValueError(f"head_groups is {head_groups}; it must be at least 0")
        if view is not None and view.core is not None and lane.ring.size > 1:
            raise UnsupportedError(
                "sparse attention chooses among all keys of a head, and a ring passes them on part by part: "
                "share tokens by ulysses in place of ring"
            )
        self._lane = lane
        self._split = split
        self._head_groups = head_groups
        self._view = view or View()
        self.rotates = self._view.recorder is not None
        self.repeats = self._view.core is None
        self._exchange = Exchange(group=lane.ulysses, frames=split.frames, places=split.block_places)

    def __call__(
        self, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, cos_BSP: Tensor, sin_BSP: Tensor
    ) -> Tensor:
        """Attend the whole window; see `AttentionOp`.

        Raises:
            UnsupportedError: There are fewer heads than ulysses ranks.
        """
        parts: tuple[Tensor, ...] = (q_BSND, k_BSND, v_BSND)
        if self.rotates:
            # Memory keeps keys as they are; each rank turns those of its own tokens, whose angles it has.
            turned = (rotate(part_BSND, cos_BSP, sin_BSP) for part_BSND in (q_BSND, k_BSND))
            parts = (*turned, v_BSND, k_BSND)
        if self._lane.ulysses.size == 1:
            return self._attend(*parts, layer=layer, heads=range(q_BSND.shape[2]))
        groups = plan_heads(q_BSND.shape[2], self._lane.ulysses.size, max(1, self._head_groups))
        if len(groups) == 1:
            return self._attend_at_once(parts, groups[0], layer=layer)
        returning: list[ToTokens] = []
        coming: ToHeads | None = self._exchange.start_to_heads(parts, groups[0])
        for number, heads in enumerate(groups):
            assert coming is not None
            arrived = coming.wait()
            following = groups[number + 1 : number + 2]
            coming = self._exchange.start_to_heads(parts, following[0]) if following else None
            mixed_BSND = self._attend(*arrived, layer=layer, heads=heads[self._lane.ulysses.index])
            returning.append(self._exchange.start_to_tokens(mixed_BSND, heads))
        by_group = [back.wait() for back in returning]
        # A rank's heads lie together: its groups follow each other.
        return torch.cat([group[rank] for rank in range(self._lane.ulysses.size) for group in by_group], dim=2)

    def _attend_at_once(self, parts: tuple[Tensor, ...], heads: HeadRanges, *, layer: int) -> Tensor:
        ulysses = self._lane.ulysses
        exchange = open_exchange(ulysses, self._split, heads, collectives=self._head_groups > 0)
        arrived = exchange.to_heads(parts)
        return exchange.to_tokens(self._attend(*arrived, layer=layer, heads=heads[ulysses.index]))

    def _attend(
        self,
        q_BSND: Tensor,
        k_BSND: Tensor,
        v_BSND: Tensor,
        plain_k_BSND: Tensor | None = None,
        *,
        layer: int,
        heads: range,
    ) -> Tensor:
        if self._view.recorder is not None:
            assert plain_k_BSND is not None
            self._view.recorder.write(*self._gather(plain_k_BSND, v_BSND), layer=layer, heads=heads)
        if self._lane.ring.size == 1:
            return self._view.attend(q_BSND, k_BSND, v_BSND, layer=layer, heads=heads)
        extended = self._view.extend(k_BSND, v_BSND, layer=layer, heads=heads)
        return attend_ring(q_BSND, k_BSND, v_BSND, self._lane.ring, self._split.block_tokens, extended)

    def _gather(self, k_BSND: Tensor, v_BSND: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all blocks of the ring, batch 1, as one rank has them."""
        ring, split = self._lane.ring, self._split
        if ring.size == 1:
            return k_BSND, v_BSND
        both_2SC = torch.cat([k_BSND, v_BSND]).flatten(2)
        whole_2SC = gather_places(both_2SC, ring, frames=split.frames, held=split.ring_places)
        whole_2SND = torch.unflatten(whole_2SC, 2, k_BSND.shape[2:])
        return whole_2SND[:1], whole_2SND[1:]
