"""Orders of tokens by what they say, another one in each head.

Shape suffixes: B batch, S tokens, N heads, D head width, C clusters.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Clusters:
    """Tokens of each head in groups that are alike.

    Args:
        centre_BNCD: Means, float32.
        of_BNS: Group of each token, int64.
    """

    centre_BNCD: Tensor
    of_BNS: Tensor

    @classmethod
    def find(cls, x_BSND: Tensor, count: int, *, rounds: int, before: Self | None = None) -> Self:
        """Cluster by k-means, which begins with evenly spread tokens: the same each time.

        Args:
            x_BSND: Queries or keys.
            count: Clusters, at most as many as tokens.
            rounds: Times that tokens are given to the nearest centre, at least 1, and the centres moved after each but
                the last.
            before: Clusters of the step before, to begin with; two rounds are enough then.

        Raises:
            ValueError: A number is out of range.
        """
        tokens = x_BSND.shape[1]
        if not 1 <= count <= tokens or rounds < 1:
            raise ValueError(f"count is {count} and rounds is {rounds}; allowed are 1..{tokens}, and at least 1")
        x_BNSD = x_BSND.transpose(1, 2).float()
        if before is None:
            centre_BNCD = x_BNSD[:, :, torch.arange(count, device=x_BNSD.device) * tokens // count]
        else:
            centre_BNCD = before.centre_BNCD
        of_BNS = _nearest(x_BNSD, centre_BNCD)
        for _ in range(rounds - 1):
            centre_BNCD = _means(x_BNSD, of_BNS, centre_BNCD)
            of_BNS = _nearest(x_BNSD, centre_BNCD)
        return cls(centre_BNCD=centre_BNCD, of_BNS=of_BNS)

    def order(self) -> Tensor:
        """Tokens cluster by cluster [B, N, S]; clusters that are alike come one after the other."""
        rank_BNC = _along_spread(self.centre_BNCD).argsort(-1).argsort(-1)
        return rank_BNC.gather(-1, self.of_BNS).argsort(dim=-1, stable=True)


def _nearest(x_BNSD: Tensor, centre_BNCD: Tensor) -> Tensor:
    closeness = x_BNSD @ centre_BNCD.mT - centre_BNCD.square().sum(-1)[:, :, None] / 2
    return closeness.argmax(-1)


def _means(x_BNSD: Tensor, of_BNS: Tensor, centre_BNCD: Tensor) -> Tensor:
    """Means of the clusters; one without tokens stays where it was."""
    into = of_BNS[..., None].expand_as(x_BNSD)
    sums = torch.zeros_like(centre_BNCD).scatter_add_(2, into, x_BNSD)
    sizes = centre_BNCD.new_zeros(centre_BNCD.shape[:3]).scatter_add_(2, of_BNS, torch.ones_like(x_BNSD[..., 0]))
    return torch.where(sizes[..., None] > 0, sums / sizes.clamp(min=1)[..., None], centre_BNCD)


def _along_spread(centre_BNCD: Tensor) -> Tensor:
    """Places of centres along the direction in which they differ most."""
    apart = centre_BNCD - centre_BNCD.mean(2, keepdim=True)
    longest = apart.square().sum(-1).argmax(-1)[..., None, None].expand(-1, -1, 1, apart.shape[3])
    way = apart.gather(2, longest)
    for _ in range(8):
        way = torch.nn.functional.normalize(way @ apart.mT @ apart, dim=-1)
    return (apart @ way.mT)[..., 0]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SemanticOrder:
    """Queries and keys of each head laid cluster by cluster, so that blocks hold tokens that are alike.

    Source: Sparse VideoGen 2 (arXiv 2505.18875). There every cluster is a block, of its own size. `BlockLists` has as
    many rows in each block, and one `length_G` for all heads. Sizes of clusters differ from head to head, so clusters
    cannot be blocks. They follow each other without gaps instead, and the sequence is cut into equal blocks; one over a
    border holds parts of two clusters, or of more where clusters are small. Attention does not depend on the order, so
    what is chosen is computed exactly all the same.

    Queries and keys are permuted in every layer and head, after the exchange of tokens for heads, which costs four
    reads and writes; and blocks are no places of the video: neither the first frame nor neighbours can be kept.
    Use: lay queries, keys and values, route with a `Blocking` of the frame-major order that keeps nothing, attend, and
    join.

    Args:
        queries: Clusters of the queries.
        keys: Clusters of the keys.
        query_BNS: Token at each place of the queries.
        key_BNS: Token at each place of the keys.
    """

    queries: Clusters
    keys: Clusters
    query_BNS: Tensor
    key_BNS: Tensor

    @classmethod
    def find(
        cls,
        q_BSND: Tensor,
        k_BSND: Tensor,
        *,
        query_clusters: int = 300,
        key_clusters: int = 1000,
        rounds: int = 50,
        before: Self | None = None,
    ) -> Self:
        """Cluster queries and keys; defaults are those of the paper.

        Args:
            q_BSND: Queries.
            k_BSND: Keys.
            query_clusters: Clusters of the queries.
            key_clusters: Clusters of the keys.
            rounds: See `Clusters.find`.
            before: The order of the step before, to begin with.
        """
        queries = Clusters.find(
            q_BSND, query_clusters, rounds=rounds, before=None if before is None else before.queries
        )
        keys = Clusters.find(k_BSND, key_clusters, rounds=rounds, before=None if before is None else before.keys)
        return cls(queries=queries, keys=keys, query_BNS=queries.order(), key_BNS=keys.order())

    def lay_queries(self, q_BSND: Tensor) -> Tensor:
        """Queries in their order."""
        return _lay(q_BSND, self.query_BNS)

    def lay_keys(self, k_BSND: Tensor) -> Tensor:
        """Keys or values in theirs."""
        return _lay(k_BSND, self.key_BNS)

    def join(self, mixed_BSND: Tensor) -> Tensor:
        """Put what was mixed for laid queries back to where they stood."""
        return _lay(mixed_BSND, self.query_BNS.argsort(-1))


def _lay(x_BSND: Tensor, order_BNS: Tensor) -> Tensor:
    return x_BSND.gather(1, order_BNS.transpose(1, 2)[..., None].expand_as(x_BSND))
