"""The share of softmax mass that lists keep, against all scores at once."""

import pytest
import torch

from reelray.kernels.block_attention.lists import BlockLists
from reelray.kernels.block_routing import api
from reelray.kernels.block_routing.recall import kept_mass


def draw(tokens, keys, mask, *, length=None):
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, n, 2, 8, generator=generator) for n in (tokens, keys))
    return q, k, BlockLists.of_mask(mask, query_rows=8, key_rows=4, length_G=length)


@pytest.mark.parametrize("lengths", [None, [4, 1, 0, 4, 3]])
def test_recall_is_the_kept_share(lengths):
    mask = torch.rand(2, 2, 3, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    length = None if lengths is None else torch.tensor(lengths, dtype=torch.int32)
    q, k, lists = draw(19, 18, mask, length=length)
    there = torch.ones(18, dtype=torch.bool)
    for block, count in enumerate(lengths or []):
        there[4 * block + count : 4 * block + 4] = False
    weights = torch.einsum("bsnd,bknd->bnsk", q.double(), k.double()).mul(8**-0.5).exp() * there
    kept = (weights * mask.repeat_interleave(8, 2)[:, :, :19].repeat_interleave(4, 3)[..., :18]).sum(-1)
    share = kept / weights.sum(-1)
    wanted = torch.stack([part.mean(-1) for part in share.split(8, dim=2)], dim=2)
    assert (kept_mass(q, k, lists) - wanted).abs().max() <= 1e-5


def test_everything_and_nothing():
    for kept in (True, False):
        q, k, lists = draw(16, 20, torch.full((1, 1, 2, 5), kept))
        assert (kept_mass(q, k, lists) - float(kept)).abs().max() <= 1e-6


def test_what_cannot_be_measured_is_refused():
    q, k, lists = draw(16, 20, torch.ones(1, 1, 2, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="2 lists of 8 rows"):
        kept_mass(q[:, :8], k, lists)


def test_better_scores_keep_more():
    """Of keys in clusters, sub-block scores find more mass than chance."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(16, 1, 2, 16, generator=generator) * 1.5
    q, k = (centres + torch.randn(16, 8, 2, 16, generator=generator) * 0.5 for _ in range(2))
    q, k = q.flatten(0, 1)[None], k.flatten(0, 1)[None]
    means = [api.pool_blocks(x, 8, parts=2) for x in (q, k)]
    scores = api.score_blocks(*means, 0.25)
    shares = [
        kept_mass(q, k, api.select_blocks(s, query_rows=8, key_rows=8, count=4)).mean()
        for s in (scores, torch.randn(scores.shape, generator=generator))
    ]
    assert shares[0] > 0.8
    assert shares[1] < 0.5
