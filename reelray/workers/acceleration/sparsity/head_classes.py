"""Heads that look within frames and heads that look along time.

Shape suffixes: B batch, S query tokens, K key tokens, N heads, D head width, Q blocks of queries, G blocks of keys,
M sampled queries.
"""

from dataclasses import replace

import torch
from torch import Tensor

from reelray.kernels.block_attention.lists import BlockLists
from reelray.workers.acceleration.sparsity.choice import choose
from reelray.workers.acceleration.sparsity.router import Blocking, Scene

WINDOWS_KEPT = 4
TIE = 1 << 18
"""Makes a distance so small that it only decides between blocks that are equally far in the other sense."""


class HeadClasses:
    """Gives each head the nearest blocks in time, or the nearest in the picture at any time.

    Some queries are attended fully and under both patterns; the pattern with the smaller squared error of the mixed
    values is the head's. Both patterns have the density of the scene. Source: Sparse VideoGen (arXiv 2502.01776). There
    queries are drawn at random; here they are evenly spread, so that a video is the same each time.

    Args:
        samples: Queries that are looked at.
    """

    def __init__(self, samples: int = 32) -> None:
        if samples < 1:
            raise ValueError(f"samples is {samples}; it must be at least 1")
        self._samples = samples
        self._made: dict[tuple[Blocking, int], tuple[BlockLists, BlockLists]] = {}

    def route(
        self, q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor, scene: Scene, *, layer: int, heads: range
    ) -> BlockLists:
        """See `Router`."""
        del layer, heads
        spatial, temporal = self.patterns(scene)
        errors = self._errors(q_BSND, k_BKND, v_BKND, scene.blocking, (spatial, temporal))
        is_temporal_BN = errors[1] < errors[0]
        return replace(
            spatial,
            index_BNQC=torch.where(is_temporal_BN[..., None, None], temporal.index_BNQC, spatial.index_BNQC),
            count_BNQ=torch.where(is_temporal_BN[..., None], temporal.count_BNQ, spatial.count_BNQ),
        )

    def patterns(self, scene: Scene) -> tuple[BlockLists, BlockLists]:
        """Lists of the spatial and of the temporal pattern, the same for all heads; made once per window and density.

        Raises:
            ValueError: The mass is to decide.
        """
        if scene.count is None:
            raise ValueError("head_classes takes a density, no mass")
        key = (scene.blocking, scene.count)
        if key not in self._made:
            while len(self._made) >= WINDOWS_KEPT:
                del self._made[next(iter(self._made))]
            frames_QG, picture_QG = _distances(scene.blocking)
            # Of blocks that are equally far in one sense the nearest in the other one come first.
            spatial, temporal = frames_QG + picture_QG / TIE, picture_QG + frames_QG / TIE
            self._made[key] = choose(-spatial[None, None], scene), choose(-temporal[None, None], scene)
        return self._made[key]

    def _errors(
        self, q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor, blocking: Blocking, patterns: tuple[BlockLists, ...]
    ) -> list[Tensor]:
        """Squared error [B, N] of each pattern."""
        queries, keys = blocking.queries, blocking.keys
        device = q_BSND.device
        tokens = blocking.order.place_S
        row_M = tokens[torch.linspace(0, len(tokens) - 1, min(self._samples, len(tokens)), device=device).long()]
        place_K = torch.arange(k_BKND.shape[1], device=device)
        block_K = place_K // keys.rows
        is_key_K = place_K % keys.rows < keys.length_G[block_K]
        q_BNMD, k_BNDK = q_BSND[:, row_M].transpose(1, 2).float(), k_BKND.permute(0, 2, 3, 1).float()
        v_BNKD = v_BKND.transpose(1, 2).float()
        logits = (q_BNMD @ k_BNDK * q_BSND.shape[-1] ** -0.5).masked_fill(~is_key_K, -torch.inf)
        full = logits.softmax(-1) @ v_BNKD
        errors = []
        for lists in patterns:
            mask_MK = lists.mask(keys.count)[0, 0, row_M // queries.rows][:, block_K]
            mixed = logits.masked_fill(~mask_MK, -torch.inf).softmax(-1) @ v_BNKD
            errors.append((mixed - full).square().mean((2, 3)))
        return errors


def _distances(blocking: Blocking) -> tuple[Tensor, Tensor]:
    """Distances [Q, G] of the middles of blocks in frames, and in rows and columns as a share of the picture."""
    query_Q3, key_G3 = blocking.queries.centres, blocking.keys.centres
    apart = (query_Q3[:, None] - key_G3).abs()
    _, rows, columns = blocking.order.grid
    return apart[..., 0], (apart[..., 1] / rows).square() + (apart[..., 2] / columns).square()
