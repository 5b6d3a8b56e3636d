"""Sizes of a TAEHV decoder."""

from dataclasses import dataclass

RATES = (1, 2, 2)
"""Frames that each stage makes of one."""
BLOCKS = 3
"""Memory blocks of each stage."""
SPATIAL_RATIO = 2 ** len(RATES)
TEMPORAL_RATIO = 4
COLOURS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class TaehvConfig:
    """Sizes of a decoder; those of Wan2.1's (`taew2_1`) by default.

    Args:
        latent_channels: Channels of the latents.
        widths: Channels of the three stages, and of what the last one hands on.
    """

    latent_channels: int = 16
    widths: tuple[int, int, int, int] = (256, 128, 64, 64)
