"""What a forward of one window is over.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WindowInput:
    """Latents of a window, and what the network is told of them.

    Args:
        latents_1CTHW: Of the window.
        timesteps: Of each of its latent frames.
        first: Its first latent frame.
        records: Whether keys and values are taken down, to be remembered.
        level: Which memory it has to do with, where each noise level has one.
    """

    latents_1CTHW: "Tensor"
    timesteps: Sequence[float]
    first: int
    records: bool
    level: int = 0

    @property
    def length(self) -> int:
        """Latent frames."""
        return self.latents_1CTHW.shape[2]
