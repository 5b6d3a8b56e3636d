"""Lists that are kept from step to step.

Shape suffixes: B batch, S query tokens, N heads.
"""

from dataclasses import dataclass

from torch import Tensor

from reelray.kernels.block_attention.lists import BlockLists
from reelray.workers.acceleration.sparsity.router import Router, Scene


@dataclass(slots=True, eq=False)
class _Kept:
    lists: BlockLists
    scene: Scene
    batch: int
    age: int = 1
    was_BN: Tensor | None = None
    is_lost: Tensor | None = None


class KeptLists:
    """Chooses anew every few steps, or where kept lists lose what they had: implements `Router`.

    What is attended hardly changes from one denoise step to the next. A request has one of these for each branch of its
    guidance, and drops it or calls `forget` when its prompt changes; nothing is shared between requests. Each layer is
    routed once per step. Lists of another window or of another density are never used.

    The log of the sums of attention over listed blocks says how much they hold. Their total hardly changes either, so
    that the difference of two such logs is that of what was kept. It is looked at head by head, which ranks that share
    heads do each for itself. Source: AdaSpa (arXiv 2502.21079), which finds patterns exactly at a few steps and keeps
    them and their logs between those.

    Args:
        router: Chooses.
        refresh: Steps for which lists are used.
        least_recall: Choose anew where a head keeps less than this share of what it had; 0 does not look.
    """

    def __init__(self, router: Router, *, refresh: int, least_recall: float = 0.0) -> None:
        if refresh < 1 or not 0 <= least_recall <= 1:
            raise ValueError(
                f"refresh is {refresh} and least_recall is {least_recall}; they must be at least 1, and in 0..1"
            )
        self._router = router
        self._refresh = refresh
        self._least_recall = least_recall
        self._kept: dict[tuple[int, range], _Kept] = {}

    def route(
        self, q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor, scene: Scene, *, layer: int, heads: range
    ) -> BlockLists:
        """See `Router`; with `least_recall` it waits for the attention of this layer in the step before."""
        kept = self._kept.get((layer, heads))
        if kept is not None and self._is_good(kept, scene, q_BSND.shape[0]):
            kept.age += 1
            return kept.lists
        lists = self._router.route(q_BSND, k_BKND, v_BKND, scene, layer=layer, heads=heads)
        self._kept[layer, heads] = _Kept(lists, scene, q_BSND.shape[0])
        return lists

    def observe(self, lse_BSN: Tensor, *, layer: int, heads: range) -> None:
        """Tell what attention over the lists of this step came to; does not wait for the device.

        Args:
            lse_BSN: Logs of the sums over listed blocks, without what stands for the others.
            layer: As it was routed.
            heads: As they were routed.
        """
        kept = self._kept.get((layer, heads))
        if kept is None or not self._least_recall:
            return
        mean_BN = lse_BSN.mean(1)
        if kept.was_BN is None:
            kept.was_BN = mean_BN
        kept.is_lost = ((mean_BN - kept.was_BN).exp() < self._least_recall).any()

    def forget(self) -> None:
        """Drop all lists."""
        self._kept.clear()

    @property
    def held_bytes(self) -> int:
        """Of the lists."""
        return sum(
            part.element_size() * part.nelement()
            for kept in self._kept.values()
            for part in (kept.lists.index_BNQC, kept.lists.count_BNQ)
        )

    def _is_good(self, kept: _Kept, scene: Scene, batch: int) -> bool:
        return (
            kept.age < self._refresh
            and kept.scene.blocking is scene.blocking
            and (kept.scene.density, kept.scene.mass) == (scene.density, scene.mass)
            and kept.batch == batch
            and not (kept.is_lost is not None and bool(kept.is_lost))
        )
