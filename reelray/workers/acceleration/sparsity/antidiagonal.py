"""Routing by antidiagonals.

Shape suffixes: B batch, S query tokens, K key tokens, N heads, D head width.
"""

from dataclasses import dataclass

from torch import Tensor

from reelray.kernels.block_attention.lists import BlockLists
from reelray.kernels.block_routing.api import score_antidiagonals
from reelray.workers.acceleration.sparsity.choice import choose
from reelray.workers.acceleration.sparsity.router import Scene


@dataclass(frozen=True, kw_only=True, slots=True)
class Antidiagonal:
    """Scores a block by the sums of its products along antidiagonals, which cross every row, column and diagonal.

    Source: XAttention (arXiv 2503.16428), which takes the fewest blocks that hold a share of the mass.

    Args:
        stride: Tokens between antidiagonals; the largest common divisor of both blocks up to this is taken.
    """

    stride: int = 16

    def route(
        self, q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor, scene: Scene, *, layer: int, heads: range
    ) -> BlockLists:
        """See `Router`."""
        del v_BKND, layer, heads
        queries, keys = scene.blocking.queries, scene.blocking.keys
        if keys.is_padded:
            raise ValueError("antidiagonal takes an order without padding, whose sums it would count")
        most = min(self.stride, queries.rows, keys.rows)
        stride = max(part for part in range(1, most + 1) if queries.rows % part == 0 and keys.rows % part == 0)
        return choose(score_antidiagonals(q_BSND, k_BKND, queries.rows, keys.rows, stride), scene)
