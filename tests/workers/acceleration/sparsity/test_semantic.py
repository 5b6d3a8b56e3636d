import itertools

import pytest
import torch
from torch import Tensor

from reelray.kernels.block_routing.recall import kept_mass
from reelray.workers.acceleration.sparsity.pooled import BLOCK_MEAN
from reelray.workers.acceleration.sparsity.router import Blocking, Scene
from reelray.workers.acceleration.sparsity.semantic import Clusters, SemanticOrder
from reelray.workers.acceleration.sparsity.tilings import frame_major

TOKENS, HEADS, WIDTH, KINDS = 120, 2, 8, 6


def draw(batch: int = 2) -> tuple[Tensor, Tensor]:
    """Tokens of six kinds, mixed all over the sequence in another way in each head, and their kinds [B, N, S]."""
    made = torch.Generator().manual_seed(0)
    kinds = torch.stack([torch.arange(TOKENS) % KINDS] * (batch * HEADS)).view(batch, HEADS, TOKENS)
    for row in kinds.view(-1, TOKENS):
        row.copy_(row[torch.randperm(TOKENS, generator=made)])
    centres = torch.eye(WIDTH)[:KINDS] * 8
    x = centres[kinds] + 0.3 * torch.randn(batch, HEADS, TOKENS, WIDTH, generator=made)
    return x.transpose(1, 2).contiguous(), kinds


def test_tokens_go_to_the_nearest_mean_of_their_cluster() -> None:
    x, _ = draw()
    found = Clusters.find(x, 7, rounds=20)
    for batch in range(2):
        for head in range(HEADS):
            tokens, centres = x[batch, :, head].double(), found.centre_BNCD[batch, head].double()
            distances = torch.cdist(tokens, centres)
            of = found.of_BNS[batch, head]
            assert torch.equal(of, distances.argmin(1))
            for cluster in of.unique():
                assert torch.allclose(tokens[of == cluster].mean(0), centres[cluster], atol=1e-4)


def test_beginning_with_the_clusters_of_before_goes_on_where_they_ended() -> None:
    x, _ = draw()
    whole = Clusters.find(x, 9, rounds=6)
    half = Clusters.find(x, 9, rounds=3)
    assert not torch.equal(half.centre_BNCD, whole.centre_BNCD)
    # The first round only finds the groups that the half ended with.
    again = Clusters.find(x, 9, rounds=4, before=half)
    assert torch.equal(again.centre_BNCD, whole.centre_BNCD)
    assert torch.equal(again.of_BNS, whole.of_BNS)


def test_each_head_has_an_order_of_its_own_which_comes_back() -> None:
    x, _ = draw()
    order = SemanticOrder.find(x, x.flip(1), query_clusters=6, key_clusters=8, rounds=5)
    for part in (order.query_BNS, order.key_BNS):
        assert torch.equal(part.sort(-1).values, torch.arange(TOKENS).expand(2, HEADS, -1))
    assert not torch.equal(order.query_BNS[:, 0], order.query_BNS[:, 1])
    assert not torch.equal(order.query_BNS, order.key_BNS)
    assert torch.equal(order.join(order.lay_queries(x)), x)
    for head in range(HEADS):
        assert torch.equal(order.lay_keys(x)[1, :, head], x[1, order.key_BNS[1, head], head])


def test_tokens_of_a_cluster_stand_together() -> None:
    x, _ = draw()
    found = Clusters.find(x, 6, rounds=5)
    laid = found.of_BNS.gather(-1, found.order())
    for row in laid.view(-1, TOKENS).tolist():
        changes = sum(a != b for a, b in itertools.pairwise(row))
        assert changes == len(set(row)) - 1


def test_clusters_along_a_line_follow_each_other() -> None:
    line = torch.arange(TOKENS, dtype=torch.float32)[torch.randperm(TOKENS, generator=torch.Generator().manual_seed(1))]
    x = line[None, :, None, None] * torch.tensor([1.0, 0.5, 0.0, 0.0])
    laid = x.gather(1, Clusters.find(x, 12, rounds=10).order().transpose(1, 2)[..., None].expand_as(x))[0, :, 0, 0]
    means = laid.view(12, 10).mean(1)
    steps = means[1:] - means[:-1]
    assert (steps > 0).all() or (steps < 0).all()


def test_blocks_of_alike_tokens_keep_more_at_the_same_density() -> None:
    x, _ = draw()
    blocking = Blocking.of(frame_major((1, 10, 12), 20), first_frame=False, neighbours=-1)
    scene = Scene(blocking=blocking, density=0.2)
    order = SemanticOrder.find(x, x, query_clusters=6, key_clusters=6, rounds=10)
    recalls = []
    for q, k in ((x, x), (order.lay_queries(x), order.lay_keys(x))):
        lists = BLOCK_MEAN.route(q, k, k, scene, layer=0, heads=range(HEADS))
        recalls.append(float(kept_mass(q, k, lists).mean()))
    assert recalls[0] < 0.5
    assert recalls[1] > 0.8


def test_what_is_mixed_in_this_order_is_dense_attention() -> None:
    x, _ = draw()
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    order = SemanticOrder.find(x, x, query_clusters=4, key_clusters=5, rounds=3)
    laid = [part.transpose(1, 2).double() for part in (order.lay_queries(x), order.lay_keys(x), order.lay_keys(v))]
    mixed = torch.nn.functional.scaled_dot_product_attention(*laid).transpose(1, 2)
    wanted = torch.nn.functional.scaled_dot_product_attention(*(part.transpose(1, 2).double() for part in (x, x, v)))
    assert torch.allclose(order.join(mixed), wanted.transpose(1, 2), atol=1e-9)


@pytest.mark.parametrize(("count", "rounds"), [(0, 1), (121, 1), (3, 0)])
def test_numbers_out_of_range_are_refused(count: int, rounds: int) -> None:
    with pytest.raises(ValueError, match=r"allowed are 1..120, and at least 1"):
        Clusters.find(draw()[0], count, rounds=rounds)
