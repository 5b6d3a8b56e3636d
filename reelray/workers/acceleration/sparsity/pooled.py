"""Routers that compare means of queries with means of keys.

Shape suffixes: B batch, S query tokens, K key tokens, N heads, D head width, Q blocks of queries, G blocks of keys,
P parts of a block, R parts of a block of keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from reelray.kernels.block_attention.lists import BlockLists
from reelray.kernels.block_routing.api import count_parts, pool_blocks, pool_with_similarity, score_blocks
from reelray.workers.acceleration.sparsity.choice import choose
from reelray.workers.acceleration.sparsity.router import Blocking, Scene
from reelray.workers.acceleration.sparsity.token_order import Blocks, Grid


@dataclass(frozen=True, kw_only=True, slots=True)
class SubBlock:
    """Estimates the softmax mass of a block from the means of its parts: log sum exp(mean q . mean k / sqrt(D)).

    Parts are small enough to be alike in themselves, so that their means say what attention does; the mean of a whole
    block hides what its tokens do not share. Source: SubBlock sparse attention of SGLang (2026). With one part each it
    is the plain comparison of block means that most methods make.

    Args:
        parts: Of a block; the nearest number that divides it is taken.
    """

    parts: int = 4

    def route(
        self, q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor, scene: Scene, *, layer: int, heads: range
    ) -> BlockLists:
        """See `Router`."""
        del v_BKND, layer, heads
        return choose(self.scores(q_BSND, k_BKND, scene.blocking), scene)

    def scores(self, q_BSND: Tensor, k_BKND: Tensor, blocking: Blocking) -> Tensor:
        """Log of the mass of every block, not normalised, [B, N, Q, G]."""
        q_means, q_counts = self._pool(q_BSND, blocking.queries)
        k_means, k_counts = self._pool(k_BKND, blocking.keys)
        return score_blocks(q_means, k_means, q_BSND.shape[-1] ** -0.5, q_counts_QP=q_counts, k_counts_GR=k_counts)

    def _pool(self, x_BSND: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
        parts, length_G = nearest_divisor(blocks.rows, self.parts), blocks.list_lengths
        counts_GP = count_parts(x_BSND.shape[1], blocks.rows, parts=parts, length_G=length_G, device=x_BSND.device)
        return pool_blocks(x_BSND, blocks.rows, parts=parts, length_G=length_G), counts_GP


def nearest_divisor(rows: int, wanted: int) -> int:
    """The divisor of `rows` that is nearest to what is wanted, the smaller one of two."""
    return min((part for part in range(1, rows + 1) if rows % part == 0), key=lambda part: (abs(part - wanted), part))


BLOCK_MEAN = SubBlock(parts=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sparge:
    """Trusts means only of blocks whose tokens are alike.

    Blocks of keys that are less alike than `similarity` are attended by all and take no part in the softmax over means;
    blocks of queries that are less alike attend everything. Of the others the blocks with the highest scores are
    chosen, by mass as published (top-CDF) or by number. Similarity is the mean cosine of all pairs of tokens of a
    block, of keys after the mean of all keys is taken off, as that changes no attention. Source: SpargeAttention (arXiv
    2502.18137).

    What is kept counts towards the mass here, which the published code reaches without it; and the block that reaches
    the mass is among the chosen. The second stage of the paper, which leaves out values of a tile whose scores turn out
    to lie far below the running maximum, needs exact scores: it is a matter of the kernel, not of lists.

    Args:
        similarity: Least mean cosine of a block that is alike. No mean cosine of all pairs is negative, so that
            anything below 0 takes all for alike. Published are 0.6 with a mass of 0.98, and -0.1 with half of the
            blocks; what fits differs from model to model.
    """

    similarity: float = -0.1

    def route(
        self, q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor, scene: Scene, *, layer: int, heads: range
    ) -> BlockLists:
        """See `Router`."""
        del v_BKND, layer, heads
        queries, keys = scene.blocking.queries, scene.blocking.keys
        q_means, q_alike = pool_with_similarity(q_BSND, queries.rows, length_G=queries.list_lengths)
        k_means = pool_blocks(k_BKND, keys.rows, length_G=keys.list_lengths)
        mean_BNGPD = (k_means * keys.length_G[:, None, None]).sum(2, keepdim=True) / keys.length_G.sum()
        centred_BKND = k_BKND - mean_BNGPD[:, :, 0].transpose(1, 2).to(k_BKND.dtype)
        _, k_alike = pool_with_similarity(centred_BKND, keys.rows, length_G=keys.list_lengths)
        scores = score_blocks(q_means, k_means, q_BSND.shape[-1] ** -0.5)
        is_unlike = (k_alike < self.similarity)[:, :, None]
        keep = is_unlike | (q_alike < self.similarity)[..., None]
        return choose(scores.masked_fill(is_unlike, -torch.inf), scene, keep=keep)


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """Compares the means of patches of a frame, 8 rows and 16 columns each.

    Source: DraftAttention (arXiv 2505.14708), which keeps the highest share of all scores of a head together. That
    leaves blocks of queries without any keys and others with very many, so here each has the same number.
    """

    def route(
        self, q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor, scene: Scene, *, layer: int, heads: range
    ) -> BlockLists:
        """See `Router`."""
        order = scene.blocking.order
        if order.tile is None or order.tile[0] != 1:
            raise ValueError("draft takes an order of patches of a frame")
        return BLOCK_MEAN.route(q_BSND, k_BKND, v_BKND, scene, layer=layer, heads=heads)


AXES: Mapping[int, tuple[int, ...]] = MappingProxyType({0: (0,), 1: (1, 2), 2: (0, 1, 2)})
"""Along which axes the layers 0, 1 and 2 of every three cut the video."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunks:
    """Chooses whole segments of the video by the means of their keys, cut along other axes in every layer.

    Layers take turns: segments in time, in the picture, in both. A block of queries sees its own segment and those
    whose mean key fits its mean query best; where the number of blocks ends within a segment, its first blocks are
    taken. Source: VMoBA (arXiv 2506.23858), where each single query has its own segments: that is no list of blocks,
    and its gathering makes it slower than dense attention on short videos.

    Args:
        segments: How many the density lets a list have, about; the segments are so large.
    """

    segments: int = 4

    def route(
        self, q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor, scene: Scene, *, layer: int, heads: range
    ) -> BlockLists:
        """See `Router`."""
        del v_BKND, heads
        blocking = scene.blocking
        pieces = _pieces(blocking.order.grid, AXES[layer % 3], self.segments / (scene.density or 1.0))
        of_q, of_k = (_segments(blocks, blocking.order.grid, pieces) for blocks in (blocking.queries, blocking.keys))
        q_means = pool_blocks(q_BSND, blocking.queries.rows, length_G=blocking.queries.list_lengths)
        k_means = pool_blocks(k_BKND, blocking.keys.rows, length_G=blocking.keys.list_lengths)[:, :, :, 0]
        length_G = blocking.keys.length_G
        count = pieces[0] * pieces[1] * pieces[2]
        # A product, since sums by index come in another order each time on a GPU.
        is_of = (torch.arange(count, device=of_k.device)[:, None] == of_k) * length_G.to(k_means.dtype)
        means = (is_of @ k_means / is_of.sum(1).clamp(min=1)[:, None])[:, :, :, None]
        scores = score_blocks(q_means, means, q_BSND.shape[-1] ** -0.5)
        is_own_QG = (of_q[:, None] == of_k) & ~blocking.keys.is_empty
        return choose(scores[..., of_k], scene, keep=is_own_QG)


def _pieces(grid: Grid, axes: tuple[int, ...], wanted: float) -> Grid:
    """How many pieces each axis is cut into, so that they are about as many as wanted and about as long."""
    pieces = [1, 1, 1]
    while pieces[0] * pieces[1] * pieces[2] < wanted:
        long = [axis for axis in axes if pieces[axis] < grid[axis]]
        if not long:
            break
        pieces[max(long, key=lambda axis: grid[axis] / pieces[axis])] += 1
    return pieces[0], pieces[1], pieces[2]


def _segments(blocks: Blocks, grid: Grid, pieces: Grid) -> Tensor:
    """The segment that the middle of each block lies in."""
    centres, place = blocks.centres, torch.zeros_like(blocks.length_G, dtype=torch.int64)
    for axis, (size, count) in enumerate(zip(grid, pieces, strict=True)):
        place = place * count + (centres[:, axis] * count / size).long().clamp(max=count - 1)
    return place
