"""Sparse attention that a checkpoint was trained for: what its tensors add to attention over chosen blocks.

Shape suffixes: B batch, S tokens, N heads, D head width, Q blocks of queries, G blocks of keys, E width out of a layer.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from reelray.kernels.block_attention.lists import BlockLists
from reelray.kernels.block_routing.api import pool_blocks, select_blocks
from reelray.workers.acceleration.sparsity.choice import choose
from reelray.workers.acceleration.sparsity.pooled import BLOCK_MEAN
from reelray.workers.acceleration.sparsity.router import Scene


@dataclass(frozen=True, kw_only=True, slots=True)
class VsaNames:
    """Names of the gate of a layer, a projection of the modulated tokens to as many channels, without norm or rotation.

    Args:
        weight: Of [C, C].
        bias: Of [C].
    """

    weight: str
    bias: str

    @classmethod
    def of(cls, layer: int) -> "VsaNames":
        """As checkpoints in diffusers' layout have them, beside `attn1`."""
        return cls(
            weight=f"blocks.{layer}.to_gate_compress.weight",
            bias=f"blocks.{layer}.to_gate_compress.bias",
        )


class Vsa:
    """Attention over means of cubes, and over the tokens of the cubes that this scores highest.

    Each cube of queries attends all mean keys by its mean query; that gives a coarse output, the same for all tokens of
    the cube, and chooses the cubes to be attended token by token. Output = fine + gate * coarse. Source: VSA (arXiv
    2505.13389); its released code has no gate of the fine branch. It keeps no blocks besides, so a policy should not.

    Tokens are in cubes of 4 x 4 x 4, and the gate is laid and, over ranks, exchanged for heads like queries.
    """

    def route(
        self, q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor, scene: Scene, *, layer: int, heads: range
    ) -> BlockLists:
        """See `Router`; for layers whose coarse branch is left out, as with a gate of zero."""
        return BLOCK_MEAN.route(q_BSND, k_BKND, v_BKND, scene, layer=layer, heads=heads)

    def split(self, q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor, scene: Scene) -> tuple[BlockLists, Tensor]:
        """Score cubes once for both branches.

        Args:
            q_BSND: Queries.
            k_BKND: Keys.
            v_BKND: Values.
            scene: The window and the step.

        Returns:
            Lists for the fine branch, and the coarse output [B, N, Q, D] in float32.
        """
        keys = scene.blocking.keys
        scores_BNQG = BLOCK_MEAN.scores(q_BSND, k_BKND, scene.blocking)
        v_means_BNGD = pool_blocks(v_BKND, keys.rows, length_G=keys.list_lengths)[:, :, :, 0]
        return choose(scores_BNQG, scene), scores_BNQG.softmax(-1) @ v_means_BNGD

    def mix(self, fine_BSND: Tensor, coarse_BNQD: Tensor, gate_BSND: Tensor, scene: Scene) -> Tensor:
        """Add the coarse output where the gate lets it in.

        Args:
            fine_BSND: Attention over the lists.
            coarse_BNQD: What `split` gave.
            gate_BSND: The gate of each token.
            scene: The same as for `split`.

        Returns:
            Mixed values, shape and dtype of `fine_BSND`.
        """
        tokens = fine_BSND.shape[1]
        spread = coarse_BNQD.repeat_interleave(scene.blocking.queries.rows, dim=2)[:, :, :tokens].transpose(1, 2)
        return torch.addcmul(fine_BSND.float(), gate_BSND.float(), spread).to(fine_BSND.dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class SlaNames:
    """Names of the projection of the linear branch of a layer, one for all heads.

    Args:
        weight: Of [D, D].
        bias: Of [D].
    """

    weight: str
    bias: str

    @classmethod
    def candidates(cls, layer: int) -> tuple["SlaNames", ...]:
        """As checkpoints have them: diffusers' layout, the original one of Wan."""
        places = (f"blocks.{layer}.attn1.attn_impl.proj_l", f"blocks.{layer}.self_attn.attn_op.local_attn.proj_l")
        return tuple(cls(weight=f"{place}.weight", bias=f"{place}.bias") for place in places)


class Sla:
    """Attention over the blocks whose means score highest, and linear attention over all tokens.

    Output = sparse + project(phi(q) (phi(k)^T v) / (1e-5 + phi(q) . sum phi(k))), with phi the softmax over the
    channels of a head. Source: SLA (arXiv 2509.24006) by its released code; it rounds the number of blocks down, and
    keeps none besides. The mean of all keys that it takes off before it pools changes no choice.
    """

    def route(
        self, q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor, scene: Scene, *, layer: int, heads: range
    ) -> BlockLists:
        """See `Router`.

        Raises:
            ValueError: The mass is to decide.
        """
        del v_BKND, layer, heads
        blocking = scene.blocking
        if scene.density is None:
            raise ValueError("sla takes a density, no mass")
        count = max(1, math.floor(scene.density * blocking.key_blocks + 1e-9))
        return select_blocks(
            BLOCK_MEAN.scores(q_BSND, k_BKND, blocking),
            query_rows=blocking.queries.rows,
            key_rows=blocking.keys.rows,
            keep=blocking.keep_QG if blocking.most_kept else None,
            count=count,
            length_G=blocking.keys.list_lengths,
            capacity=max(count, blocking.most_kept) + 1,
        )

    def linear(self, q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor) -> Tensor:
        """Linear attention over all tokens, float32.

        Args:
            q_BSND: Queries, rotated.
            k_BKND: Keys, rotated; without padding, as each token counts.
            v_BKND: Values.
        """
        q_BNSD, k_BNKD = (part.transpose(1, 2).float().softmax(-1) for part in (q_BSND, k_BKND))
        mixed_BNSD = q_BNSD @ (k_BNKD.mT @ v_BKND.transpose(1, 2).float())
        weight_BNS1 = q_BNSD @ k_BNKD.sum(2)[..., None]
        return (mixed_BNSD / (weight_BNS1 + 1e-5)).transpose(1, 2)

    def mix(self, sparse_BSND: Tensor, linear_BSND: Tensor, weight_ED: Tensor, bias_E: Tensor) -> Tensor:
        """Add the projected linear branch.

        Args:
            sparse_BSND: Attention over the lists.
            linear_BSND: What `linear` gave.
            weight_ED: Weight of the projection; E equals D.
            bias_E: Its bias.

        Returns:
            Mixed values, shape and dtype of `sparse_BSND`.
        """
        projected = F.linear(linear_BSND, weight_ED.float(), bias_E.float())
        return (sparse_BSND.float() + projected).to(sparse_BSND.dtype)
