"""How many bytes a decode needs, and the tiling that fits into a given number.

The estimate counts tensors of the eager path: the worst layer of the worst stage, the carried slots and the output.
Convolution workspaces and weights are not in it. `test_footprint.py` holds it between 1 and 2 times the
measured peak of live tensors.
"""

from dataclasses import dataclass

from reelray.proto.errors import ResourceError
from reelray.workers.models.wan.vae.config import WanVaeConfig
from reelray.workers.models.wan.vae.state import Tiling
from reelray.workers.models.wan.vae.tiling import cut_spans

# Live at once in a residual block: input, shortcut, normalised, joined with its past, and two temporaries of a norm
# that works in fp32 whatever the dtype.
_BLOCK_TENSORS = 4
_BLOCK_FP32_TENSORS = 2


def estimate_decode_bytes(
    config: WanVaeConfig, height: int, width: int, latent_frames: int, *, itemsize: int, latents_per_call: int = 1
) -> int:
    """Peak bytes of activations, slots and output of decoding one untiled video.

    Args:
        config: Shape of the VAE.
        height: Picture height in pixels.
        width: Picture width in pixels.
        latent_frames: Latent frames of one `decode` call, whose pixels exist at once.
        itemsize: Bytes per value of the dtype the VAE runs in.
        latents_per_call: Latent frames that pass through the network at once.
    """
    positions = (height // config.spatial_ratio) * (width // config.spatial_ratio)
    per_call = min(latents_per_call, latent_frames)
    per_value = _BLOCK_TENSORS * itemsize + _BLOCK_FP32_TENSORS * 4
    activations = max(stage.values(per_call) for stage in _stages(config)) * positions * per_value
    output = _output_bytes(config, height, width, latent_frames, itemsize)
    # A step holds the old slots and the new ones; joining the calls' pixels holds them twice.
    return activations + 2 * slot_bytes(config, height, width, itemsize=itemsize) + 2 * output


def slot_bytes(config: WanVaeConfig, height: int, width: int, *, itemsize: int) -> int:
    """Bytes that the state of one untiled video holds."""
    positions = (height // config.spatial_ratio) * (width // config.spatial_ratio)
    return sum(stage.slot_channels * stage.area for stage in _stages(config)) * 2 * positions * itemsize


def choose_tiling(
    config: WanVaeConfig,
    height: int,
    width: int,
    latent_frames: int,
    *,
    itemsize: int,
    latents_per_call: int,
    budget_bytes: int,
) -> Tiling | None:
    """The largest tile whose decode fits into `budget_bytes`; None when the whole frame does.

    Raises:
        ResourceError: If not even the smallest tile fits.
    """
    if (
        estimate_decode_bytes(
            config, height, width, latent_frames, itemsize=itemsize, latents_per_call=latents_per_call
        )
        <= budget_bytes
    ):
        return None
    side = config.spatial_ratio
    for tile in range(max(height, width) // side - 1, 7, -1):
        tiling = Tiling(tile=tile, overlap=max(tile // 4, 2))
        count = len(cut_spans(height // side, tiling)) * len(cut_spans(width // side, tiling))
        size = min(tile * side, height), min(tile * side, width)
        one = estimate_decode_bytes(config, *size, latent_frames, itemsize=itemsize, latents_per_call=latents_per_call)
        waiting = slot_bytes(config, *size, itemsize=itemsize)
        waiting += _output_bytes(config, *size, latent_frames, itemsize)
        whole = _output_bytes(config, height, width, latent_frames, itemsize)
        if one + (count - 1) * waiting + 2 * whole <= budget_bytes:
            return tiling
    raise ResourceError(
        f"decoding {width}x{height} does not fit into the free {budget_bytes / 1e6:.0f} MB, not even in tiles; "
        "ask for a smaller size, or free memory"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stage:
    """One scale of the decoder: its widest tensor, positions per latent, frames per latent, channels it remembers."""

    channels: int
    area: int
    frames: int
    slot_channels: int

    def values(self, latent_frames: int) -> int:
        """Values of one joined tensor per latent position: two frames of past, then the call's own."""
        return self.channels * self.area * (self.frames * latent_frames + 2)


def _stages(config: WanVaeConfig) -> list[_Stage]:
    base = config.decoder_base_dim or config.base_dim
    widths = [base * multiplier for multiplier in reversed(config.dim_mult)]
    doubles_rate = [*reversed(config.temperal_downsample), False]
    stages, entering, frames = [], widths[0], 1
    for index, (width, doubles) in enumerate(zip(widths, doubles_rate, strict=True)):
        remembered = entering + width * (2 * config.num_res_blocks + 1)
        if index == 0:
            remembered += config.z_dim + 4 * width
        if index == len(widths) - 1:
            remembered += width
        remembered += width if doubles else 0
        stages.append(_Stage(channels=max(entering, width), area=4**index, frames=frames, slot_channels=remembered))
        entering, frames = width // 2, frames * (2 if doubles else 1)
    return stages


def _output_bytes(config: WanVaeConfig, height: int, width: int, latent_frames: int, itemsize: int) -> int:
    return config.out_channels * latent_frames * config.temporal_ratio * height * width * itemsize
