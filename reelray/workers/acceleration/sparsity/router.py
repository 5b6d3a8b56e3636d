"""The seam of sparse attention: what chooses the blocks of keys that each block of queries attends.

Shape suffixes: B batch, S query tokens, K key tokens, N heads, D head width, Q blocks of queries, G blocks of keys.
"""

import math
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from reelray.kernels.block_attention.lists import BlockLists
from reelray.proto.sparsity import SparsityPolicy
from reelray.workers.acceleration.sparsity.token_order import Blocks, TokenOrder


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Blocking:
    """How a window is cut, the same in every step; equal to itself alone.

    Args:
        order: Order of the tokens.
        queries: Its blocks of queries.
        keys: Its blocks of keys.
        keep_QG: Blocks that are always attended, bool.
        most_kept: Of a block of queries.
        kept_share: Of all; a smaller density cannot be had.
        key_blocks: Blocks of keys that are not padding only.
    """

    order: TokenOrder
    queries: Blocks
    keys: Blocks
    keep_QG: Tensor
    most_kept: int
    kept_share: float
    key_blocks: int

    @classmethod
    def of(
        cls,
        order: TokenOrder,
        *,
        query_rows: int | None = None,
        key_rows: int | None = None,
        first_frame: bool = True,
        neighbours: int = 1,
    ) -> Self:
        """Cut a window; waits for the device.

        Args:
            order: Order of the tokens.
            query_rows: Places of a block of queries; those of the order by default.
            key_rows: Places of a block of keys; those of the order by default.
            first_frame: Always attend the blocks that hold the first latent frame.
            neighbours: Always attend so many blocks beside the query's own, and its own; -1 does not.
        """
        queries, keys = order.cut(query_rows), order.cut(key_rows)
        keep_QG = torch.zeros((queries.count, keys.count), dtype=torch.bool, device=order.token_P.device)
        if first_frame:
            keep_QG |= keys.holds_first
        if neighbours >= 0:
            keep_QG |= _beside(queries, keys, neighbours)
        keep_QG &= ~keys.is_empty
        return cls(
            order=order,
            queries=queries,
            keys=keys,
            keep_QG=keep_QG,
            most_kept=int(keep_QG.sum(1).max()),
            kept_share=float(keep_QG[~queries.is_empty][:, ~keys.is_empty].float().mean()),
            key_blocks=int((~keys.is_empty).sum()),
        )


def _beside(queries: Blocks, keys: Blocks, neighbours: int) -> Tensor:
    """Bool [Q, G]: blocks of keys that share places with a block of queries, and so many on both sides."""
    device = queries.length_G.device
    first_Q = torch.arange(queries.count, device=device) * queries.rows
    own_low = first_Q // keys.rows - neighbours
    own_high = (first_Q + queries.rows - 1) // keys.rows + neighbours
    number_G = torch.arange(keys.count, device=device)
    return (number_G >= own_low[:, None]) & (number_G <= own_high[:, None])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scene:
    """What a router knows of one step besides queries and keys.

    Args:
        blocking: How the window is cut.
        density: Share of the blocks of keys to be attended; None where the mass decides.
        mass: Share of the softmax to be attended; None where the density decides.

    Raises:
        ValueError: Not exactly one of the two is given.
    """

    blocking: Blocking
    density: float | None = None
    mass: float | None = None

    def __post_init__(self) -> None:
        if (self.density is None) == (self.mass is None):
            raise ValueError(f"density is {self.density} and mass is {self.mass}; exactly one must be given")

    @classmethod
    def of(cls, order: TokenOrder, policy: SparsityPolicy, progress: float = 1.0) -> Self:
        """The scene of a window under a policy; waits for the device.

        Args:
            order: Order of the tokens, as the policy wants it.
            policy: Says what is kept and how much is attended.
            progress: See `reelray.proto.sparsity.progress`.
        """
        blocking = Blocking.of(order, first_frame=policy.first_frame, neighbours=policy.neighbours)
        density = policy.density_at(progress)
        return cls(blocking=blocking, density=density, mass=policy.mass)

    def at(self, policy: SparsityPolicy, progress: float) -> "Scene":
        """The same window in another step."""
        return Scene(
            blocking=self.blocking,
            density=policy.density_at(progress),
            mass=policy.mass,
        )

    @property
    def count(self) -> int | None:
        """Blocks of a list, kept ones among them; None where the mass decides."""
        return None if self.density is None else max(1, math.ceil(self.density * self.blocking.key_blocks - 1e-9))


class Router(Protocol):
    """Chooses blocks. One object serves one policy on one engine and never keeps anything of a request."""

    def route(
        self, q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor, scene: Scene, *, layer: int, heads: range
    ) -> BlockLists:
        """Choose.

        Args:
            q_BSND: Queries, rotated, laid in the order of the scene.
            k_BKND: Keys, likewise.
            v_BKND: Values; few routers look at them.
            scene: The window and the step.
            layer: Index of the layer.
            heads: Which heads of the model these are.

        Returns:
            Lists, none of which is empty.

        Raises:
            ValueError: The order is not one that the method takes.
        """
        ...
