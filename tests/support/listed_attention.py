"""Attention over block lists by the shortest formula: dense with a mask of tokens, in float64; and cases for it."""

from dataclasses import replace

import torch

from reelray.kernels.block_attention.lists import BlockLists


def draw_lists(batch, heads, queries, keys, *, query_rows=64, key_rows=64, density=0.5, seed=0, **more) -> BlockLists:
    """Lists of random blocks; some are empty where density is low."""
    shape = (batch, heads, -(-queries // query_rows), -(-keys // key_rows))
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density
    return BlockLists.of_mask(mask, query_rows=query_rows, key_rows=key_rows, **more)


def draw_qkv(batch, queries, keys, heads, width, *, dtype=torch.float32, key_batch=None, seed=1):
    """Unit-normal queries, keys and values; keys and values are slices of one projection."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, queries, heads, width, generator=generator)
    fused = torch.randn(key_batch or batch, keys, 3 * heads * width, generator=generator)
    k, v = (part.unflatten(-1, (heads, width)) for part in fused.to(dtype).chunk(3, -1)[1:])
    return q.to(dtype), k, v


def allowed_tokens(lists: BlockLists, queries: int, keys: int):
    """Bool [B, N, S, K]: which key each query attends."""
    blocks = -(-keys // lists.key_rows)
    wide = lists.mask(blocks).repeat_interleave(lists.query_rows, 2).repeat_interleave(lists.key_rows, 3)
    wide = wide[:, :, :queries, :keys]
    if lists.length_G is not None:
        row = torch.arange(keys)
        wide = wide & (row % lists.key_rows < lists.length_G[row // lists.key_rows])
    return wide


def attend_dense(q, k, v, allowed):
    """Attention with a mask of tokens, in float64; 0 and minus infinity where nothing is allowed."""
    q, k, v = q.double(), k.double().expand(len(q), -1, -1, -1), v.double().expand(len(q), -1, -1, -1)
    scores = torch.einsum("bsnd,bknd->bnsk", q, k) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~allowed, -torch.inf)
    lse = scores.logsumexp(-1)
    weights = (scores - lse.masked_fill(lse == -torch.inf, 0)[..., None]).exp()
    return torch.einsum("bnsk,bknd->bsnd", weights, v), lse.transpose(1, 2)


def cut_lists(lists: BlockLists, blocks: int, *, first: bool) -> BlockLists:
    """Every second entry of the lists: the even ones or the odd ones."""
    mask = lists.mask(blocks)
    place = mask.cumsum(-1) - 1
    part = mask & ((place % 2 == 0) == first)
    made = BlockLists.of_mask(part, query_rows=lists.query_rows, key_rows=lists.key_rows, length_G=lists.length_G)
    return replace(made, order_BNQ=lists.order_BNQ)
