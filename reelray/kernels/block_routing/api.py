"""Routing of blocks: through Triton on CUDA, through the references elsewhere. For inference: no gradient.

Shape suffixes: B batch, S query tokens, K key tokens, N heads, D head width, Q blocks of queries, G blocks of keys,
P parts of a block, R parts of a block of keys, C capacity of a list.
"""

import importlib.util
from typing import Literal

import torch
from torch import Tensor

from reelray.kernels.block_attention.lists import BlockLists
from reelray.kernels.block_routing import reference, select_reference
from reelray.kernels.block_routing.limits import MOST_BLOCKS, Limits, make_limits

HAS_TRITON = importlib.util.find_spec("triton") is not None


def count_parts(
    tokens: int, rows: int, *, parts: int = 1, length_G: Tensor | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Count the tokens of each part of each block.

    Args:
        tokens: Of the sequence.
        rows: Tokens of a block; the last one may be short.
        parts: How many parts a block is cut into, each of `rows / parts` tokens; the last ones of a short block are
            short or empty.
        length_G: Tokens of each block that are there, the first ones, int32; None where all are.
        device: Of the result, where there are no lengths.

    Returns:
        Counts [G, P], int32.

    Raises:
        ValueError: Rows, parts and lengths do not belong together.
    """
    _check_blocks(tokens, rows, parts, length_G)
    return reference.count_parts(tokens, rows, parts=parts, length_G=length_G, device=device)


def pool_blocks(x_BSND: Tensor, rows: int, *, parts: int = 1, length_G: Tensor | None = None) -> Tensor:
    """Take the mean of each part of each block.

    Args:
        x_BSND: Queries, keys or values; the last dim must be contiguous.
        rows: Tokens of a block; the last one may be short.
        parts: See `count_parts`.
        length_G: See `count_parts`; what lies behind is not read.

    Returns:
        Means [B, N, G, P, D], float32; 0 where a part has no token, so scores need its count (`count_parts`).

    Raises:
        ValueError: Rows, parts and lengths do not belong together.
    """
    _check_blocks(x_BSND.shape[1], rows, parts, length_G)
    if not _runs_triton(x_BSND):
        return reference.pool_blocks(x_BSND, rows, parts, length_G)
    from reelray.kernels.block_routing.pooling import pool  # noqa: PLC0415  (triton exists on GPU machines only)

    means_BNGPD: Tensor = pool(x_BSND, length_G, rows, parts, is_sum=False, has_similarity=False)[0]
    return means_BNGPD


def pool_similarity(x_BSND: Tensor, rows: int, *, length_G: Tensor | None = None) -> Tensor:
    """Take the mean of the Gram matrix of each block's L2-normalised tokens (SpargeAttention, arXiv 2502.18137).

    Args:
        x_BSND: Queries or keys; the last dim must be contiguous.
        rows: Tokens of a block; the last one may be short.
        length_G: See `count_parts`.

    Returns:
        Self-similarity [B, N, G], float32, 1 where all tokens point the same way, and where a block has none. A token
        of length 0 is like none, itself included.

    Raises:
        ValueError: Rows and lengths do not belong together.
    """
    return pool_with_similarity(x_BSND, rows, length_G=length_G)[1]


def pool_with_similarity(
    x_BSND: Tensor, rows: int, *, parts: int = 1, length_G: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute `pool_blocks` and `pool_similarity` in one read.

    Args:
        x_BSND: Queries or keys; the last dim must be contiguous.
        rows: Tokens of a block; the last one may be short.
        parts: Of the means, see `count_parts`.
        length_G: See `count_parts`.

    Returns:
        Means [B, N, G, P, D] and self-similarity [B, N, G], float32.

    Raises:
        ValueError: Rows, parts and lengths do not belong together.
    """
    _check_blocks(x_BSND.shape[1], rows, parts, length_G)
    if not _runs_triton(x_BSND):
        means_BNGPD = reference.pool_blocks(x_BSND, rows, parts, length_G)
        return means_BNGPD, reference.pool_similarity(x_BSND, rows, length_G)
    from reelray.kernels.block_routing.pooling import pool  # noqa: PLC0415  (triton exists on GPU machines only)

    pair: tuple[Tensor, Tensor] = pool(x_BSND, length_G, rows, parts, is_sum=False, has_similarity=True)
    return pair


def sum_blocks(x_BSND: Tensor, rows: int, *, length_G: Tensor | None = None) -> Tensor:
    """Sum up each block.

    Args:
        x_BSND: Values; the last dim must be contiguous.
        rows: Tokens of a block; the last one may be short.
        length_G: See `count_parts`.

    Returns:
        Sums [B, N, G, D], float32.

    Raises:
        ValueError: Rows and lengths do not belong together.
    """
    _check_blocks(x_BSND.shape[1], rows, 1, length_G)
    if not _runs_triton(x_BSND):
        return reference.sum_blocks(x_BSND, rows, length_G)
    from reelray.kernels.block_routing.pooling import pool  # noqa: PLC0415  (triton exists on GPU machines only)

    sums_BNG1D: Tensor = pool(x_BSND, length_G, rows, 1, is_sum=True, has_similarity=False)[0]
    return sums_BNG1D.squeeze(3)


def score_blocks(
    q_means_BNQPD: Tensor,
    k_means_BNGRD: Tensor,
    scale: float,
    *,
    q_counts_QP: Tensor | None = None,
    k_counts_GR: Tensor | None = None,
    precision: Literal["split", "half"] = "split",
) -> Tensor:
    """Estimate the log of the softmax mass of a block of queries over a block of keys.

    The log of the sum of exp(scale * mean q . mean k) over the pairs of parts: SubBlock's estimate, and with one part
    each the plain product of means.

    Args:
        q_means_BNQPD: Means of the queries, float32 (`pool_blocks`).
        k_means_BNGRD: Means of the keys, float32.
        scale: Of the products, 1 / sqrt(D) as a rule.
        q_counts_QP: Tokens of the parts, int32 (`count_parts`); parts without tokens do not count. None: all count.
        k_counts_GR: The same of the keys; a block without tokens scores minus infinity.
        precision: Of the kernel: `split` is nearly float32, `half` rounds the means to float16 for a third of the
            products. Scores are float32 in both.

    Returns:
        Scores [B, N, Q, G], float32.

    Raises:
        ValueError: Shapes do not belong together.
    """
    queries, keys = q_means_BNQPD.shape, k_means_BNGRD.shape
    if len(queries) != 5 or len(keys) != 5 or queries[:2] != keys[:2] or queries[4] != keys[4]:
        raise ValueError(f"means are {list(queries)} and {list(keys)}; batch, heads and width must agree")
    for name, counts, shape in (("q_counts_QP", q_counts_QP, queries), ("k_counts_GR", k_counts_GR, keys)):
        if counts is not None and counts.shape != shape[2:4]:
            raise ValueError(f"{name} is {list(counts.shape)}; the means have {list(shape[2:4])} blocks and parts")
    if not _runs_triton(q_means_BNQPD):
        return reference.score_blocks(q_means_BNQPD, k_means_BNGRD, scale, q_counts_QP, k_counts_GR)
    from reelray.kernels.block_routing.scores import score  # noqa: PLC0415  (triton exists on GPU machines only)

    means = q_means_BNQPD.float(), k_means_BNGRD.float()
    scores_BNQG: Tensor = score(*means, scale, q_counts_QP, k_counts_GR, precision)
    return scores_BNQG


def score_antidiagonals(
    q_BSND: Tensor, k_BKND: Tensor, rows_q: int, rows_k: int, stride: int, *, scale: float | None = None
) -> Tensor:
    """Estimate the softmax mass of blocks by antidiagonals (XAttention, arXiv 2503.16428).

    The logit of a group of `stride` queries and one of keys is the mean of the products along the antidiagonal. Its
    softmax over all groups of keys, summed over a block of keys and averaged over the groups of a block of queries, is
    the estimated mass; this returns its log. A token that is missing in the last group counts as zero.

    Args:
        q_BSND: Queries.
        k_BKND: Keys, same dtype.
        rows_q: Tokens of a block of queries, a multiple of the stride.
        rows_k: Tokens of a block of keys, a multiple of the stride.
        stride: Tokens of a group.
        scale: Of the products; 1 / sqrt(D) by default.

    Returns:
        Scores [B, N, Q, G], float32; their exponentials sum up to 1 over G.

    Raises:
        ValueError: Blocks are not whole groups.
    """
    if stride < 1 or rows_q % stride or rows_k % stride or rows_q < 1 or rows_k < 1:
        raise ValueError(f"blocks of {rows_q} and {rows_k} tokens are not whole groups of {stride}")
    scale = q_BSND.shape[-1] ** -0.5 if scale is None else scale
    if not _runs_triton(q_BSND):
        return reference.score_antidiagonals(q_BSND, k_BKND, (rows_q, rows_k), stride, scale)
    from reelray.kernels.block_routing.antidiagonals import score  # noqa: PLC0415  (triton exists on GPU machines only)

    scores_BNQG: Tensor = score(q_BSND, k_BKND, rows_q, rows_k, stride, scale)
    return scores_BNQG


def select_blocks(
    scores_BNQG: Tensor,
    *,
    query_rows: int,
    key_rows: int,
    keep: Tensor | None = None,
    drop: Tensor | None = None,
    count: int | Tensor | None = None,
    mass: float | Tensor | None = None,
    least: int = 1,
    most: int | None = None,
    length_G: Tensor | None = None,
    capacity: int | None = None,
) -> BlockLists:
    """Choose the blocks of keys of each block of queries by their scores.

    With `count`, the blocks with the highest scores, exactly so many. With `mass`, the fewest blocks that hold this
    share of the softmax mass of the scores, kept ones included. With both, enough for both. Of equal scores the lower
    block wins. Kept blocks are part of the count; where more are kept than it says, the list has just those. Minus
    infinity is never chosen unless it is kept, so a list can be shorter than `count` and `least`. A score that is not
    a number or plus infinity is chosen before all others and has all of the mass: attention then computes the block,
    and what is wrong with it shows.

    Args:
        scores_BNQG: Scores, float32.
        query_rows: Tokens of a block of queries.
        key_rows: Tokens of a block of keys.
        keep: Blocks that are chosen in any case, bool, broadcast to the scores.
        drop: Blocks that are not chosen unless they are kept, bool, broadcast to the scores. They have no mass.
        count: Blocks of each list; a tensor [N], [1 or B, N] or [1 or B, 1], int32, where heads differ.
        mass: Share of the mass, above 0 and at most 1; a tensor as for `count`, float32, where heads differ.
        least: Blocks of a list at least.
        most: Blocks of a list at most, unless more are kept; all by default.
        length_G: Tokens of each block of keys that are there, int32; blocks without any are dropped.
        capacity: C, above any count: a longer list loses its lowest scores, and kept blocks with the highest numbers
            last. By default one more than what `count` or `most` allow; one more than all blocks where blocks are kept
            or `count` is a tensor and there is no `most`.

    Returns:
        Lists, ascending, 0 behind their counts. Nothing waits for the device.

    Raises:
        ValueError: A limit is out of range, or shapes or dtypes do not belong together.
    """
    if scores_BNQG.ndim != 4 or scores_BNQG.dtype != torch.float32:
        raise ValueError(
            f"scores are {list(scores_BNQG.shape)} of {scores_BNQG.dtype}; they must be [B, N, Q, G] of float32"
        )
    limits = make_limits(scores_BNQG, count, mass, least=least, most=most, capacity=capacity, has_keep=keep is not None)
    for name, part in (("keep", keep), ("drop", drop)):
        if part is not None and part.dtype != torch.bool:
            raise ValueError(f"{name} is {part.dtype}; it must be torch.bool")
    if length_G is not None:
        if length_G.shape != scores_BNQG.shape[3:]:
            raise ValueError(f"length_G is {list(length_G.shape)}; there are {scores_BNQG.shape[3]} blocks")
        drop = length_G < 1 if drop is None else drop | (length_G < 1)
    keep, drop = (None if part is None else part.expand(scores_BNQG.shape) for part in (keep, drop))
    index_BNQC, count_BNQ = _select(scores_BNQG, keep, drop, limits)
    return BlockLists(
        index_BNQC=index_BNQC, count_BNQ=count_BNQ, query_rows=query_rows, key_rows=key_rows, length_G=length_G
    )


def compensate(
    q_BSND: Tensor,
    k_means_BNGD: Tensor,
    v_sums_BNGD: Tensor,
    sizes_G: Tensor,
    lists: BlockLists,
    *,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend the mean of every block that a list does not name, in place of the block (Sol-Attn, arXiv 2607.24027).

    With w = size * exp(scale * q . mean k) over those blocks: sum(w * mean v) / sum(w), and log sum(w). Merged with
    exact attention over the listed blocks, or given to it as its seed, this stands for the blocks that are skipped;
    it is exact where a block's keys are all equal.

    Args:
        q_BSND: Queries; the last dim must be contiguous.
        k_means_BNGD: Means of the keys, float32 (`pool_blocks`).
        v_sums_BNGD: Sums of the values, float32 (`sum_blocks`).
        sizes_G: Tokens of the blocks, int32 (`count_parts`); blocks without any have no weight.
        lists: What exact attention computes.
        scale: Of the products; 1 / sqrt(D) by default.

    Returns:
        Mixed values [B, S, N, D] and logs [B, S, N], float32; 0 and minus infinity where all blocks are listed.

    Raises:
        ValueError: Shapes do not belong together.
    """
    batch, tokens, heads, width = q_BSND.shape
    blocks = k_means_BNGD.shape[2]
    if k_means_BNGD.shape != (batch, heads, blocks, width) or v_sums_BNGD.shape != k_means_BNGD.shape:
        raise ValueError(
            f"means are {list(k_means_BNGD.shape)} and sums {list(v_sums_BNGD.shape)}; queries are {list(q_BSND.shape)}"
        )
    if sizes_G.shape != (blocks,):
        raise ValueError(f"sizes_G is {list(sizes_G.shape)}; there are {blocks} blocks")
    if lists.count_BNQ.shape[2] != -(-tokens // lists.query_rows):
        raise ValueError(f"{lists.count_BNQ.shape[2]} lists of {lists.query_rows} rows are not of {tokens} tokens")
    scale = width**-0.5 if scale is None else scale
    v_means_BNGD = v_sums_BNGD / sizes_G.clamp(min=1)[:, None]
    bias_G = sizes_G.float().log()
    if not _runs_triton(q_BSND):
        k_scaled_BNGD, mask = k_means_BNGD.float() * scale, lists.mask(blocks)
        return reference.compensate(
            q_BSND, k_scaled_BNGD, v_means_BNGD, bias_G, listed=mask, query_rows=lists.query_rows
        )
    from reelray.kernels.block_routing import compensation  # noqa: PLC0415  (triton exists on GPU machines only)

    means = (part.to(q_BSND.dtype) for part in (k_means_BNGD, v_means_BNGD))
    index, count, rows = lists.index_BNQC, lists.count_BNQ, lists.query_rows
    pair: tuple[Tensor, Tensor] = compensation.compensate(q_BSND, *means, bias_G, index, count, rows, scale)
    return pair


def _select(scores_BNQG: Tensor, keep: Tensor | None, drop: Tensor | None, limits: Limits) -> tuple[Tensor, Tensor]:
    if not _runs_triton(scores_BNQG) or scores_BNQG.shape[3] > MOST_BLOCKS:
        return select_reference.select(scores_BNQG, keep, drop, limits)
    from reelray.kernels.block_routing.selection import select  # noqa: PLC0415  (triton exists on GPU machines only)

    bounds = {name: getattr(limits, name) for name in ("least", "most", "mass", "is_exact", "capacity")}
    chosen: tuple[Tensor, Tensor] = select(scores_BNQG, keep, drop, limits.count_BN, limits.mass_BN, **bounds)
    return chosen


def _check_blocks(tokens: int, rows: int, parts: int, length_G: Tensor | None) -> None:
    if tokens < 1:
        raise ValueError("there must be at least one token")
    if rows < 1 or parts < 1 or rows % parts:
        raise ValueError(f"blocks of {rows} tokens cannot be cut into {parts} equal parts")
    if length_G is not None and length_G.shape != (-(-tokens // rows),):
        raise ValueError(
            f"length_G is {list(length_G.shape)}; {tokens} tokens are {-(-tokens // rows)} blocks of {rows}"
        )


def _runs_triton(tensor: Tensor) -> bool:
    return HAS_TRITON and tensor.device.type == "cuda" and tensor.numel() > 0
