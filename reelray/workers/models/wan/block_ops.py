"""The element-wise work of a block, as a set of functions that can be swapped whole.

Plain torch serves every device, training and compilation: inductor fuses it. The same calls exist as Triton kernels and
as a GEMM with GELU in its epilogue. `choose_ops` says which set a checkpoint is opened with.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from reelray.kernels.linear_gelu import api as linear_gelu_api
from reelray.kernels.linear_gelu import reference as linear_gelu
from reelray.kernels.modulate import api as modulate_api
from reelray.kernels.modulate import reference as modulate
from reelray.kernels.modulate.reference import Modulation
from reelray.kernels.norm_rope import api as norm_rope_api
from reelray.kernels.norm_rope import reference as norm_rope


class NormHeads(Protocol):
    """See `reelray.kernels.norm_rope.reference.norm_heads`."""

    def __call__(
        self,
        x_BSC: Tensor,
        weight_C: Tensor,
        heads: int,
        *,
        eps: float,
        cos_BSP: Tensor | None = None,
        sin_BSP: Tensor | None = None,
    ) -> Tensor:
        """Norm, cut and rotate."""
        ...


class ModulationOf(Protocol):
    """See `reelray.kernels.modulate.reference.modulation_of`."""

    def __call__(self, table_16C: Tensor, time_BG6C: Tensor) -> Modulation:
        """Add, and make gains of scales."""
        ...


class NormModulate(Protocol):
    """See `reelray.kernels.modulate.reference.norm_modulate`."""

    def __call__(self, x_BSC: Tensor, gain_BGC: Tensor, shift_BGC: Tensor, *, eps: float) -> Tensor:
        """Norm, scale and shift."""
        ...


class AddNormModulate(Protocol):
    """See `reelray.kernels.modulate.reference.add_norm_modulate`."""

    def __call__(
        self,
        x_BSC: Tensor,
        update_BSC: Tensor,
        gate_BGC: Tensor | None,
        gain_BGC: Tensor,
        shift_BGC: Tensor,
        *,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        """Add, then norm, scale and shift."""
        ...


class AddNorm(Protocol):
    """See `reelray.kernels.modulate.reference.add_norm`."""

    def __call__(
        self,
        x_BSC: Tensor,
        update_BSC: Tensor,
        gate_BGC: Tensor | None,
        weight_C: Tensor,
        bias_C: Tensor,
        *,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        """Add, then norm."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockOps:
    """One implementation of everything in a block that is not a matrix product or an attention.

    Args:
        norm_heads: RMSNorm, cut into heads, rotation.
        modulation_of: Shifts, gains and gates of a block.
        norm_modulate: LayerNorm, gain, shift.
        add_norm_modulate: Gated residual, LayerNorm, gain, shift.
        add_norm: Gated residual, LayerNorm with weight and bias of its own.
        add_gated: Gated residual.
        linear_gelu: x W^T + b, then tanh-GELU.
    """

    norm_heads: NormHeads
    modulation_of: ModulationOf
    norm_modulate: NormModulate
    add_norm_modulate: AddNormModulate
    add_norm: AddNorm
    add_gated: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    linear_gelu: Callable[[Tensor, Tensor, Tensor], Tensor]


TORCH_OPS = BlockOps(
    norm_heads=norm_rope.norm_heads,
    modulation_of=modulate.modulation_of,
    norm_modulate=modulate.norm_modulate,
    add_norm_modulate=modulate.add_norm_modulate,
    add_norm=modulate.add_norm,
    add_gated=modulate.add_gated,
    linear_gelu=linear_gelu.linear_gelu,
)
FUSED_OPS = BlockOps(
    norm_heads=norm_rope_api.norm_heads,
    modulation_of=modulate_api.modulation_of,
    norm_modulate=modulate_api.norm_modulate,
    add_norm_modulate=modulate_api.add_norm_modulate,
    add_norm=modulate_api.add_norm,
    add_gated=modulate_api.add_gated,
    linear_gelu=linear_gelu_api.linear_gelu,
)


def choose_ops(device: torch.device) -> BlockOps:
    """Pick the ops of inference: fused on a GPU with Triton, plain torch elsewhere.

    Fused kernels serve every size at once; compilation would make the first request of each size wait.

    Args:
        device: Where the model runs.
    """
    fused = device.type == "cuda" and importlib.util.find_spec("triton") is not None
    return FUSED_OPS if fused else TORCH_OPS
