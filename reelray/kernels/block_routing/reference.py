"""Pooling, scores and compensation in plain torch, float32 inside.

Shape suffixes: B batch, S query tokens, K key tokens, N heads, D head width, Q blocks of queries, G blocks of keys,
P parts of a block, R parts of a block of keys, U groups of query tokens, V groups of key tokens, E channels of a group.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

ELEMENTS_AT_ONCE = 1 << 26
"""Scores that exist at one time; more are worked on in turn."""


def count_parts(
    tokens: int, rows: int, *, parts: int = 1, length_G: Tensor | None = None, device: torch.device | str | None = None
) -> Tensor:
    """How many tokens each part of each block has, int32 [G, P]; see `api.count_parts`."""
    device = device if length_G is None else length_G.device
    blocks, width = -(-tokens // rows), rows // parts
    length = (tokens - rows * torch.arange(blocks, device=device)).clamp(max=rows)
    if length_G is not None:
        length = torch.minimum(length, length_G)
    first_P = width * torch.arange(parts, device=device)
    return (length[:, None] - first_P).clamp(0, width).to(torch.int32)


def cut_blocks(x_BSND: Tensor, rows: int, parts: int, counts_GP: Tensor) -> Tensor:
    """Tokens as [B, G, P, rows of a part, N, D] in float32, with zeros where there is none."""
    batch, tokens, heads, width = x_BSND.shape
    blocks, room = len(counts_GP), rows // parts
    padded = F.pad(x_BSND, (0, 0, 0, 0, 0, blocks * rows - tokens)).float()
    cut = padded.reshape(batch, blocks, parts, room, heads, width)
    is_there = torch.arange(room, device=x_BSND.device) < counts_GP[..., None]
    return cut.masked_fill(~is_there[None, ..., None, None], 0.0)


def pool_blocks(x_BSND: Tensor, rows: int, parts: int, length_G: Tensor | None) -> Tensor:
    """Mean of each part of each block, float32 [B, N, G, P, D]; 0 where a part has no token."""
    counts_GP = count_parts(x_BSND.shape[1], rows, parts=parts, length_G=length_G, device=x_BSND.device)
    sums_BGPND = cut_blocks(x_BSND, rows, parts, counts_GP).sum(3)
    means_BGPND = sums_BGPND / counts_GP.clamp(min=1)[:, :, None, None]
    return means_BGPND.permute(0, 3, 1, 2, 4)


def sum_blocks(x_BSND: Tensor, rows: int, length_G: Tensor | None) -> Tensor:
    """Sum of each block, float32 [B, N, G, D]."""
    counts_GP = count_parts(x_BSND.shape[1], rows, length_G=length_G, device=x_BSND.device)
    return cut_blocks(x_BSND, rows, 1, counts_GP).sum((2, 3)).transpose(1, 2)


def pool_similarity(x_BSND: Tensor, rows: int, length_G: Tensor | None) -> Tensor:
    """Mean cosine of all pairs of a block's tokens, a token with itself too, float32 [B, N, G]; 1 without tokens."""
    counts_GP = count_parts(x_BSND.shape[1], rows, length_G=length_G, device=x_BSND.device)
    rows_BGMND = cut_blocks(x_BSND, rows, 1, counts_GP)[:, :, 0]
    length = rows_BGMND.square().sum(-1, keepdim=True).sqrt()
    sums_BGND = torch.where(length > 0, rows_BGMND / length, rows_BGMND).sum(2)
    similarity_BGN = sums_BGND.square().sum(-1) / counts_GP.clamp(min=1).square()
    return torch.where(counts_GP > 0, similarity_BGN, 1.0).transpose(1, 2)


def score_blocks(
    q_means_BNQPD: Tensor,
    k_means_BNGRD: Tensor,
    scale: float,
    q_counts_QP: Tensor | None,
    k_counts_GR: Tensor | None,
) -> Tensor:
    """Log sum exp of scale * q . k over the pairs of parts that have tokens, float32 [B, N, Q, G]."""
    *_, blocks, parts, _ = q_means_BNQPD.shape
    batch, heads, keys, key_parts, _ = k_means_BNGRD.shape
    step = max(1, ELEMENTS_AT_ONCE // max(1, batch * heads * parts * keys * key_parts))
    scores = []
    for first in range(0, blocks, step):
        here = slice(first, first + step)
        pairs = torch.einsum("bnqpd,bngrd->bnqgpr", q_means_BNQPD[:, :, here].float(), k_means_BNGRD.float()) * scale
        if q_counts_QP is not None:
            pairs = pairs.masked_fill((q_counts_QP[here] < 1)[:, None, :, None], -torch.inf)
        if k_counts_GR is not None:
            pairs = pairs.masked_fill((k_counts_GR < 1)[:, None, :], -torch.inf)
        scores.append(pairs.flatten(4).logsumexp(-1))
    if not scores:
        return q_means_BNQPD.new_empty((batch, heads, 0, keys), dtype=torch.float32)
    return torch.cat(scores, dim=2)


def score_antidiagonals(q_BSND: Tensor, k_BKND: Tensor, rows: tuple[int, int], stride: int, scale: float) -> Tensor:
    """Log of the share of the softmax mass that the antidiagonals give a block, float32 [B, N, Q, G]."""
    q_BNUE, k_BNVE = _group(q_BSND, stride, is_reversed=True), _group(k_BKND, stride, is_reversed=False)
    per_q, per_k = (count // stride for count in rows)
    batch, heads, groups, _ = q_BNUE.shape
    keys = k_BNVE.shape[2]
    blocks = -(-keys // per_k)
    step = per_q * max(1, ELEMENTS_AT_ONCE // max(1, batch * heads * per_q * keys))
    scores = []
    for first in range(0, groups, step):
        logits = q_BNUE[:, :, first : first + step].float() @ k_BNVE.float().mT * (scale / stride)
        logits = F.pad(logits.log_softmax(-1), (0, blocks * per_k - keys), value=-torch.inf)
        mass_BNUG = torch.unflatten(logits, -1, (blocks, per_k)).logsumexp(-1)
        here = mass_BNUG.shape[2]
        missing = -here % per_q
        mass_BNUG = F.pad(mass_BNUG, (0, 0, 0, missing), value=-torch.inf)
        sums = torch.unflatten(mass_BNUG, 2, (-1, per_q)).logsumexp(3)
        counts = (here - per_q * torch.arange(sums.shape[2], device=sums.device)).clamp(max=per_q)
        scores.append(sums - counts.float().log()[:, None])
    return torch.cat(scores, dim=2)


def _group(x_BSND: Tensor, stride: int, *, is_reversed: bool) -> Tensor:
    """Neighbouring tokens side by side, [B, N, groups, stride * D]; tokens that are missing are zero."""
    missing = -x_BSND.shape[1] % stride
    grouped = torch.unflatten(F.pad(x_BSND, (0, 0, 0, 0, 0, missing)), 1, (-1, stride))
    if is_reversed:
        grouped = grouped.flip(2)
    return grouped.permute(0, 3, 1, 2, 4).flatten(3)


def compensate(
    q_BSND: Tensor, k_means_BNGD: Tensor, v_means_BNGD: Tensor, bias_G: Tensor, *, listed: Tensor, query_rows: int
) -> tuple[Tensor, Tensor]:
    """Attention of tokens to the means of the blocks that are not listed, float32; see `api.compensate`.

    Args:
        q_BSND: Queries, scaled.
        k_means_BNGD: Mean keys.
        v_means_BNGD: Mean values.
        bias_G: Log of the blocks' sizes, float32.
        listed: Bool [B or 1, N or 1, Q, G].
        query_rows: Tokens of a block of queries.
    """
    batch, tokens, heads, width = q_BSND.shape
    keys = k_means_BNGD.shape[2]
    mixed_BSND = q_BSND.new_empty((batch, tokens, heads, width), dtype=torch.float32)
    lse_BSN = q_BSND.new_empty((batch, tokens, heads), dtype=torch.float32)
    step = query_rows * max(1, ELEMENTS_AT_ONCE // max(1, batch * heads * query_rows * keys))
    for first in range(0, tokens, step):
        q_BNSD = q_BSND[:, first : first + step].transpose(1, 2).float()
        hidden = listed[:, :, first // query_rows : (first + step) // query_rows].repeat_interleave(query_rows, dim=2)
        logits = q_BNSD @ k_means_BNGD.float().mT + bias_G
        logits = logits.masked_fill(hidden[:, :, : q_BNSD.shape[2]], -torch.inf)
        lse_BNS = logits.logsumexp(-1)
        weights = (logits - lse_BNS.masked_fill(lse_BNS == -torch.inf, 0.0)[..., None]).exp()
        mixed_BSND[:, first : first + step] = (weights @ v_means_BNGD.float()).transpose(1, 2)
        lse_BSN[:, first : first + step] = lse_BNS.transpose(1, 2)
    return mixed_BSND, lse_BSN
