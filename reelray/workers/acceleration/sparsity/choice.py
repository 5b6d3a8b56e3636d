"""From scores to lists, under what a scene keeps and how much it allows.

Shape suffixes: B batch, N heads, Q blocks of queries, G blocks of keys.
"""

from torch import Tensor

from reelray.kernels.block_attention.lists import BlockLists
from reelray.kernels.block_routing.api import select_blocks
from reelray.workers.acceleration.sparsity.router import Scene


def choose(scores_BNQG: Tensor, scene: Scene, *, keep: Tensor | None = None) -> BlockLists:
    """Choose the blocks with the highest scores, by number or by mass as the scene says.

    Args:
        scores_BNQG: Scores, float32; logs of masses where the mass decides.
        scene: Says how much, and what is attended in any case.
        keep: What is attended besides, bool, broadcast to the scores.
    """
    blocking = scene.blocking
    kept = blocking.keep_QG if blocking.most_kept else None
    # Lists are as long as they can become and no longer: over all blocks they would be most of a request's memory.
    capacity = None if keep is not None or scene.count is None else max(scene.count, blocking.most_kept) + 1
    return select_blocks(
        scores_BNQG,
        query_rows=blocking.queries.rows,
        key_rows=blocking.keys.rows,
        keep=kept if keep is None else keep | blocking.keep_QG,
        count=scene.count,
        mass=scene.mass,
        length_G=blocking.keys.list_lengths,
        capacity=capacity,
    )
