"""What decoding with a Wan VAE costs, told from its `config.json` alone: nothing here imports torch.

A decoder stage works on a multiple of the latent's area and frame rate; its cost per latent cell is that multiple times
the products of its convolutions. The quadratic attention of the middle (0.4 % at 832x480) is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TAPS = 27
PLANE_TAPS = 9
PAST_FRAMES = 2
BLOCK_BYTES = 16
"""Four bf16 and two float32 tensors live at once in a residual block; `vae/footprint.py` counts the same."""
BF16_BYTES = 2
PICTURE_CHANNELS = 3
DEFAULTS: Mapping[str, Any] = {
    "base_dim": 96,
    "z_dim": 16,
    "dim_mult": (1, 2, 4, 4),
    "num_res_blocks": 2,
    "temperal_downsample": (False, True, True),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One scale of the decoder, per latent cell.

    Args:
        entering: Channels that come in.
        width: Channels that it works on.
        area: Positions per latent cell.
        frames: Frames per latent frame.
        blocks: Residual blocks.
        doubles: Whether its end doubles the frame rate.
        last: Whether nothing follows.
    """

    entering: int
    width: int
    area: int
    frames: int
    blocks: int
    doubles: bool
    last: bool

    @property
    def weights(self) -> int:
        """Parameters of its convolutions."""
        up = 0 if self.last else PLANE_TAPS * self.width * (self.width // 2)
        return self._block_weights + up + (2 * 3 * self.width**2 if self.doubles else 0)

    @property
    def _block_weights(self) -> int:
        shortcut = self.entering * self.width if self.entering != self.width else 0
        return TAPS * (self.entering * self.width + (2 * self.blocks - 1) * self.width**2) + shortcut

    def products(self, *, first: bool) -> int:
        """Multiply-adds per latent cell of one latent frame; the first one is a single picture throughout."""
        frames = 1 if first else self.frames
        count = self._block_weights * frames * self.area
        if self.doubles and not first:
            count += 2 * 3 * self.width**2 * frames * self.area
            frames *= 2
        if not self.last:
            count += PLANE_TAPS * self.width * (self.width // 2) * frames * 4 * self.area
        return count


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderSizes:
    """Cost of a decoder per latent cell; names as in `ModelSizes`."""

    parameters: int
    flops: int
    first_flops: int
    state_bytes: int
    frame_bytes: int


def measure_decoder(config: Mapping[str, Any]) -> DecoderSizes:
    """Count parameters, FLOPs and bytes of a decoder.

    Args:
        config: The VAE's `config.json`; what it leaves out is as in Wan2.1.
    """
    config = {**DEFAULTS, **config}
    stages = list_stages(config)
    z_dim, top, bottom = int(config["z_dim"]), stages[0].entering, stages[-1]
    middle = TAPS * (z_dim * top + 4 * top**2) + 4 * top**2 + z_dim**2
    head = TAPS * bottom.width * PICTURE_CHANNELS
    at_end = bottom.area * head
    widest = max(stages, key=lambda stage: max(stage.entering, stage.width) * stage.area * stage.frames)
    values = max(widest.entering, widest.width) * widest.area
    output = PICTURE_CHANNELS * bottom.frames * bottom.area * BF16_BYTES
    # A step holds the old state and the new one; joining pictures holds them twice.
    state = 2 * PAST_FRAMES * BF16_BYTES * remembered_values(config, stages)
    return DecoderSizes(
        parameters=middle + head + sum(stage.weights for stage in stages),
        flops=2 * (middle + at_end * bottom.frames + sum(stage.products(first=False) for stage in stages)),
        first_flops=2 * (middle + at_end + sum(stage.products(first=True) for stage in stages)),
        state_bytes=state + values * PAST_FRAMES * BLOCK_BYTES,
        frame_bytes=values * widest.frames * BLOCK_BYTES + 2 * output,
    )


def list_stages(config: Mapping[str, Any]) -> list[Stage]:
    """Stages of the decoder, coarsest first."""
    base = config.get("decoder_base_dim") or config["base_dim"]
    widths = [base * multiplier for multiplier in reversed(config["dim_mult"])]
    doubles = [*reversed(config["temperal_downsample"]), False]
    stages: list[Stage] = []
    entering, frames = widths[0], 1
    for index, (width, doubled) in enumerate(zip(widths, doubles, strict=True)):
        stages.append(
            Stage(
                entering=entering,
                width=width,
                area=4**index,
                frames=frames,
                blocks=config["num_res_blocks"] + 1,
                doubles=doubled,
                last=index == len(widths) - 1,
            )
        )
        entering, frames = width // 2, frames * (2 if doubled else 1)
    return stages


def remembered_values(config: Mapping[str, Any], stages: list[Stage]) -> int:
    """Values per latent cell of one remembered frame, over all convolutions in time."""
    top, bottom = stages[0], stages[-1]
    count = config["z_dim"] + 4 * top.width + bottom.width * bottom.area
    for stage in stages:
        per_position = stage.entering + stage.width * (2 * stage.blocks - 1) + (stage.width if stage.doubles else 0)
        count += per_position * stage.area
    return int(count)
