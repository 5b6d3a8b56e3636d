"""The sparse attention of one request, as a core of its windows.

Shape suffixes: B batch, P places of the order (tokens and padding), N heads, D head width.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from reelray.kernels.attention.api import attend
from reelray.kernels.attention.lse import merge_partials
from reelray.kernels.block_attention.api import attend_blocks
from reelray.kernels.block_attention.lists import BlockLists
from reelray.kernels.block_routing.api import compensate, pool_blocks, sum_blocks
from reelray.proto.sparsity import FIXED, SparsityPolicy, SparsityUse, progress
from reelray.workers.acceleration.sparsity.kept_lists import KeptLists
from reelray.workers.acceleration.sparsity.router import Router, Scene
from reelray.workers.acceleration.sparsity.token_order import TokenOrder
from reelray.workers.models.attention_op import View

TIME = 1000
"""Timesteps of the flow's time axis: that of a latent frame is its noise level times this."""


@dataclass(kw_only=True, eq=False)
class SparseWindows:
    """Makes the views of a request's windows; owned by the request, so that nothing of it outlives it.

    Args:
        policy: What may be left out.
        router: Chooses blocks by it; what is kept from step to step is kept here.
        order: Order of the tokens of a window, on the device.
        shift: Timestep shift of the schedule.
        pays_below: Density from which on a step is dense all the same.
    """

    policy: SparsityPolicy
    router: Router
    order: TokenOrder
    shift: float
    pays_below: float = 1.0
    _kept: dict[Hashable, KeptLists] = field(default_factory=dict, init=False)  # of each branch
    _use: SparsityUse = field(default_factory=SparsityUse, init=False)
    _counts: list[Tensor] = field(default_factory=list, init=False)  # blocks that were attended, on the device

    @cached_property
    def scene(self) -> Scene:
        """Of the window."""
        return Scene.of(self.order, self.policy)

    def view(self, timestep: float, branch: Hashable) -> View | None:
        """What a forward attends; None where all of it is dense.

        Args:
            timestep: In [0, 1000], of all latent frames.
            branch: Of guidance; each keeps lists of its own.
        """
        way = progress(min(1.0, timestep / TIME), self.shift)
        if self.policy.dense_at(way, layer=self.policy.dense_layers):
            return None
        scene = self.scene.at(self.policy, way)
        is_chosen_by_number = self.policy.mass is None and self.policy.method not in FIXED
        if is_chosen_by_number and not self.policy.forced and (scene.density or 1.0) >= self.pays_below:
            return None
        return View(core=SparseCore(windows=self, kept=self._kept_of(branch), scene=scene, way=way))

    def _kept_of(self, branch: Hashable) -> KeptLists | None:
        policy = self.policy
        if policy.refresh == 1:
            return None
        if branch not in self._kept:
            self._kept[branch] = KeptLists(self.router, refresh=policy.refresh, least_recall=policy.least_recall)
        return self._kept[branch]

    def note_dense(self, calls: int = 1) -> None:
        """Count evaluations of a layer that were dense."""
        self._use += SparsityUse(calls=calls, dense=calls)

    def note(self, lists: BlockLists) -> None:
        """Count an evaluation of a layer by lists."""
        self._use += SparsityUse(calls=1)
        self._counts.append(
            lists.count_BNQ.sum(dtype=torch.float64) / (lists.count_BNQ.numel() * self.scene.blocking.key_blocks)
        )

    def take_use(self) -> SparsityUse:
        """What was counted since the last time; waits for the device."""
        attended = float(torch.stack(self._counts).sum()) if self._counts else 0.0
        use = self._use + SparsityUse(attended=attended)
        self._use = SparsityUse()
        self._counts.clear()
        return use


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SparseCore:
    """Implements `Core` for one forward.

    Args:
        windows: Of whose request.
        kept: Lists of the steps before; None where all are chosen anew.
        scene: The window and the step.
        way: How far the step lies on the way from noise to picture.
    """

    windows: SparseWindows
    kept: KeptLists | None
    scene: Scene
    way: float

    @property
    def order(self) -> TokenOrder:
        """See `Core`."""
        return self.windows.order

    def __call__(self, q_BPND: Tensor, k_BPND: Tensor, v_BPND: Tensor, *, layer: int, heads: range) -> Tensor:
        """See `Core`."""
        windows = self.windows
        if windows.policy.dense_at(self.way, layer):
            windows.note_dense()
            return attend_densely(windows.order, q_BPND, k_BPND, v_BPND)
        router = windows.router if self.kept is None else self.kept
        lists = router.route(q_BPND, k_BPND, v_BPND, self.scene, layer=layer, heads=heads)
        windows.note(lists)
        seed = self._means(q_BPND, k_BPND, v_BPND, lists) if windows.policy.compensates else None
        if self.kept is None or not windows.policy.least_recall:
            return attend_blocks(q_BPND, k_BPND, v_BPND, lists, seed=seed, longest=self.scene.count)[0]
        mixed_BPND, lse_BPN = attend_blocks(q_BPND, k_BPND, v_BPND, lists, longest=self.scene.count)
        self.kept.observe(lse_BPN, layer=layer, heads=heads)
        return mixed_BPND if seed is None else merge_partials(mixed_BPND, lse_BPN, *seed, dtype=q_BPND.dtype)[0]

    def _means(self, q_BPND: Tensor, k_BPND: Tensor, v_BPND: Tensor, lists: BlockLists) -> tuple[Tensor, Tensor]:
        """What stands for the blocks that are left out."""
        keys = self.scene.blocking.keys
        length_G = keys.list_lengths
        means_BNGD = pool_blocks(k_BPND, keys.rows, length_G=length_G).squeeze(3)
        sums_BNGD = sum_blocks(v_BPND, keys.rows, length_G=length_G)
        return compensate(q_BPND, means_BNGD, sums_BNGD, keys.length_G, lists)


def attend_densely(order: TokenOrder, q_BPND: Tensor, k_BPND: Tensor, v_BPND: Tensor) -> Tensor:
    """Attend all tokens, and no padding."""
    if order.length_T is None:
        return attend(q_BPND, k_BPND, v_BPND)
    return order.take(attend(order.join(q_BPND), order.join(k_BPND), order.join(v_BPND)))
