"""The element-wise work of a block, as a set of functions that can be swapped whole.

Plain torch is the default: inductor fuses it. The same calls exist as Triton kernels and as a GEMM with GELU in its
epilogue; which set is faster is a question for a measurement, not for the maths.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn import functional as F

from reelray.kernels.modulate import reference as modulate
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


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockOps:
    """One implementation of everything in a block that is not a matrix product or an attention.

    Args:
        norm_heads: RMSNorm, cut into heads, rotation.
        norm_modulate: LayerNorm, gain, shift.
        add_norm_modulate: Gated residual, LayerNorm, gain, shift.
        add_gated: Gated residual.
        linear_gelu: x W^T + b, then tanh-GELU.
    """

    norm_heads: NormHeads
    norm_modulate: NormModulate
    add_norm_modulate: AddNormModulate
    add_gated: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    linear_gelu: Callable[[Tensor, Tensor, Tensor], Tensor]


def linear_gelu(x_BSC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute gelu(x W^T + b) with the tanh form."""
    return F.gelu(F.linear(x_BSC, weight, bias), approximate="tanh")


TORCH_OPS = BlockOps(
    norm_heads=norm_rope.norm_heads,
    norm_modulate=modulate.norm_modulate,
    add_norm_modulate=modulate.add_norm_modulate,
    add_gated=modulate.add_gated,
    linear_gelu=linear_gelu,
)
