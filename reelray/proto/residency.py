"""Where the weights are while they are not used."""

from dataclasses import dataclass
from enum import StrEnum


class Blocks(StrEnum):
    """The transformer's blocks."""

    RESIDENT = "resident"  # every rank holds the blocks it runs
    SHARDED = "sharded"  # every rank holds a share of each block; the next is gathered while one computes
    OFFLOADED = "offloaded"  # host memory holds them; the next is copied while one computes


class Encoder(StrEnum):
    """The encoders of text and image."""

    RESIDENT = "resident"
    RELEASED = "released"  # host memory holds them; copied in for a prompt, gone before the first step


class Networks(StrEnum):
    """What of a checkpoint a rank opens."""

    ALL = "all"
    DENOISING = "denoising"  # encoders of text and image and the transformer; the latent decoder only for its encoder
    DECODING = "decoding"  # the latent decoder


@dataclass(frozen=True, kw_only=True, slots=True)
class Residency:
    """One way to hold the weights."""

    blocks: Blocks = Blocks.RESIDENT
    encoder: Encoder = Encoder.RESIDENT

    def __str__(self) -> str:
        return str(self.blocks) if self.encoder is Encoder.RESIDENT else f"{self.blocks}, encoder released"


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightShare:
    """What one of the ranks that hold the same blocks keeps of each of them, where they are sharded.

    Args:
        index: Place of the rank among them.
        ranks: How many they are.
    """

    index: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.ranks:
            raise ValueError(f"share {self.index} of {self.ranks} is none; the index must lie in 0..{self.ranks - 1}")
