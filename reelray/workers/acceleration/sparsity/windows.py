"""The sparse attention of one request, as a core of its windows.

Shape suffixes: B batch, P places of the order (tokens and padding), N heads, D head width.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from reelray.kernels.attention.api import attend
from reelray.kernels.block_attention.api import attend_blocks
from reelray.kernels.block_attention.lists import BlockLists
from reelray.kernels.block_routing.api import compensate, pool_blocks, sum_blocks
from reelray.proto.sparsity import SparsityPolicy, SparsityUse, progress
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
        router: Chooses blocks by it.
        order: Order of the tokens of a window, on the device.
        shift: Timestep shift of the schedule.
    """

    policy: SparsityPolicy
    router: Router
    order: TokenOrder
    shift: float
    _use: SparsityUse = field(default_factory=SparsityUse, init=False)
    _counts: list[Tensor] = field(default_factory=list, init=False)  # blocks that were attended, on the device

    @cached_property
    def scene(self) -> Scene:
        """Of the window."""
        return Scene.of(self.order, self.policy)

    def view(self, timestep: float) -> View | None:
        """What a forward attends; None where all of it is dense.

        Args:
            timestep: In [0, 1000], of all latent frames.
        """
        way = progress(min(1.0, timestep / TIME), self.shift)
        if self.policy.dense_at(way, layer=self.policy.dense_layers):
            return None
        return View(core=SparseCore(windows=self, scene=self.scene.at(self.policy, way), way=way))

    def note_dense(self, calls: int = 1) -> None:
        """Count evaluations of a layer that were dense."""
        self._use += SparsityUse(calls=calls, dense=calls)

    def note(self, lists: BlockLists) -> None:
        """Count an evaluation of a layer by lists."""
        self._use += SparsityUse(calls=1)
        self._counts.append(
            lists.count_BNQ.sum(dtype=torch.float64) / (lists.count_BNQ.numel() * self.scene.key_blocks)
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
        scene: The window and the step.
        way: How far the step lies on the way from noise to picture.
    """

    windows: SparseWindows
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
        lists = windows.router.route(q_BPND, k_BPND, v_BPND, self.scene, layer=layer, heads=heads)
        windows.note(lists)
        seed = self._means(q_BPND, k_BPND, v_BPND, lists) if windows.policy.compensates else None
        mixed_BPND, _ = attend_blocks(q_BPND, k_BPND, v_BPND, lists, seed=seed)
        return mixed_BPND

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
