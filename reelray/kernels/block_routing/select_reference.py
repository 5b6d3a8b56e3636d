"""Selection in plain torch: sort, sum up, cut.

Shape suffixes: B batch, N heads, Q blocks of queries, G blocks of keys, C capacity of a list.
"""

import torch
from torch import Tensor

from reelray.kernels.block_routing.limits import Limits

KEPT = 2**31 - 2
"""Order of a block that is kept whatever its score."""
ENDLESS = KEPT - 1
"""Order of a score that is not a number or plus infinity."""
OUT = -(2**31)
"""Order of a block that is never chosen."""


def order_of(scores_BNQG: Tensor, keep: Tensor | None, drop: Tensor | None) -> Tensor:
    """Whole numbers in the order of the scores, int64: what is chosen first has the largest.

    Kept blocks come first, then scores that are not a number or plus infinity; minus infinity and dropped are OUT.
    """
    scores = torch.where(scores_BNQG == 0, 0.0, scores_BNQG.float())
    bits = scores.view(torch.int32).long()
    order = torch.where(bits < 0, bits ^ (2**31 - 1), bits)
    order = order.masked_fill(scores.isnan() | scores.isposinf(), ENDLESS).masked_fill(scores.isneginf(), OUT)
    if drop is not None:
        order = order.masked_fill(drop, OUT)
    return order if keep is None else order.masked_fill(keep, KEPT)


def weigh(scores_BNQG: Tensor, order_BNQG: Tensor) -> Tensor:
    """Softmax weights of the blocks that are there, float64, not divided by their sum."""
    scores = scores_BNQG.double().masked_fill(order_BNQG == OUT, -torch.inf)
    is_endless = (scores.isnan() | scores.isposinf()) & (order_BNQG != OUT)
    most = scores.masked_fill(is_endless, -torch.inf).amax(-1, keepdim=True)
    weights = (scores - most.masked_fill(most == -torch.inf, 0.0)).exp()
    return torch.where(is_endless.any(-1, keepdim=True), is_endless.double(), weights)


def select(scores_BNQG: Tensor, keep: Tensor | None, drop: Tensor | None, limits: Limits) -> tuple[Tensor, Tensor]:
    """Lists [B, N, Q, C] and counts [B, N, Q] of the chosen blocks, int32; see `api.select_blocks`."""
    order = order_of(scores_BNQG, keep, drop)
    there = (order != OUT).sum(-1)
    forced = (order == KEPT).sum(-1)
    lower = torch.full_like(there, limits.least)
    if limits.count_BN is not None:
        lower = limits.count_BN.long()[..., None].clamp(limits.least, limits.most).expand_as(there)
    upper = lower if limits.is_exact else torch.full_like(there, limits.most)
    lower, upper = (torch.minimum(torch.maximum(bound, forced), there) for bound in (lower, upper))
    ranked = order.sort(dim=-1, descending=True, stable=True).indices
    count = lower
    share = limits.mass if limits.mass_BN is None else limits.mass_BN.double()[..., None, None]
    if share is not None:
        reached = weigh(scores_BNQG, order).gather(-1, ranked).cumsum(-1)
        needed = (reached < share * reached[..., -1:]).sum(-1) + 1
        count = torch.maximum(lower, torch.minimum(upper, needed))
    count = count.clamp(max=limits.capacity - 1)
    places = torch.arange(scores_BNQG.shape[-1], device=order.device)
    is_chosen = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, ranked, places < count[..., None])
    index = (~is_chosen).sort(dim=-1, stable=True).indices[..., : limits.capacity]
    index = index.masked_fill(places[: index.shape[-1]] >= count[..., None], 0)
    index = torch.nn.functional.pad(index, (0, limits.capacity - index.shape[-1]))
    return index.to(torch.int32), count.to(torch.int32)
