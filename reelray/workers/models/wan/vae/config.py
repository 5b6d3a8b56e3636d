"""The numbers that define one Wan video VAE, read from the `config.json` of a diffusers checkpoint."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from reelray.proto.errors import CheckpointError

_CLASS_NAME = "AutoencoderKLWan"
_TUPLES = {"dim_mult", "attn_scales", "temperal_downsample", "latents_mean", "latents_std"}
_FIXED: dict[str, tuple[object, ...]] = {"is_residual": (False,), "patch_size": (None, 1)}
_SCALES = ("scale_factor_temporal", "scale_factor_spatial")

# Statistics of the published Wan2.1 latents, one entry a channel.
WAN21_LATENTS_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
WAN21_LATENTS_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WanVaeConfig:
    """Shape of a Wan2.1 VAE. Field names are those of diffusers' `AutoencoderKLWan`, its spelling included.

    Args:
        base_dim: Channels of the encoder's first stage.
        decoder_base_dim: Channels of the decoder's last stage; None means `base_dim`.
        z_dim: Latent channels.
        dim_mult: Channel multiplier of each stage, finest first; each border between stages halves H and W.
        num_res_blocks: Residual blocks of an encoder stage; a decoder stage has one more.
        attn_scales: Spatial scales (1.0, 0.5, ...) at which the encoder adds attention.
        temperal_downsample: For each border between stages, whether it also halves the frame rate.
        dropout: Dropout inside residual blocks while training.
        latents_mean: Mean of each latent channel.
        latents_std: Standard deviation of each latent channel.
        in_channels: Picture channels of the encoder.
        out_channels: Picture channels of the decoder.

    Raises:
        ValueError: If a field has no meaning, or the lengths of two fields disagree.
    """

    base_dim: int = 96
    decoder_base_dim: int | None = None
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attn_scales: tuple[float, ...] = ()
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    dropout: float = 0.0
    latents_mean: tuple[float, ...] = WAN21_LATENTS_MEAN
    latents_std: tuple[float, ...] = WAN21_LATENTS_STD
    in_channels: int = 3
    out_channels: int = 3

    def __post_init__(self) -> None:
        for name in ("base_dim", "z_dim", "num_res_blocks", "in_channels", "out_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if len(self.dim_mult) < 1 or min(self.dim_mult) < 1:
            raise ValueError(f"dim_mult={self.dim_mult}: needs at least one multiplier, each at least 1")
        if len(self.temperal_downsample) != len(self.dim_mult) - 1:
            raise ValueError(
                f"temperal_downsample={self.temperal_downsample}: needs {len(self.dim_mult) - 1} entries, "
                f"one for each border between the stages dim_mult={self.dim_mult}"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout}: must be in [0, 1)")
        for name in ("latents_mean", "latents_std"):
            values = getattr(self, name)
            if len(values) != self.z_dim or not all(math.isfinite(v) for v in values):
                raise ValueError(f"{name}={values}: needs {self.z_dim} finite values, one a latent channel")
        if min(self.latents_std) <= 0:
            raise ValueError(f"latents_std={self.latents_std}: every value must be positive")

    @property
    def spatial_ratio(self) -> int:
        """Pixels per latent, along height and along width."""
        return int(2 ** (len(self.dim_mult) - 1))

    @property
    def temporal_ratio(self) -> int:
        """Pixel frames per latent frame, from the second latent frame on; the first one holds a single frame."""
        return int(2 ** sum(self.temperal_downsample))

    @classmethod
    def from_diffusers(cls, raw: Mapping[str, Any]) -> Self:
        """Read the content of an `AutoencoderKLWan` `config.json`.

        Args:
            raw: The parsed JSON. Keys that start with an underscore are bookkeeping and ignored.

        Raises:
            CheckpointError: On an unknown field, a Wan2.2 field in use, or a value that `WanVaeConfig` refuses.
        """
        found = raw.get("_class_name", _CLASS_NAME)
        if found != _CLASS_NAME:
            raise CheckpointError(f"vae config: _class_name={found!r}, allowed: {_CLASS_NAME!r}")
        given = {key: value for key, value in raw.items() if not key.startswith("_")}
        for key, allowed in _FIXED.items():
            if key in given and given.pop(key) not in allowed:
                raise CheckpointError(f"vae config: {key}={raw[key]!r} is not a Wan2.1 VAE, allowed: {allowed}")
        scales = {key: given.pop(key) for key in _SCALES if given.get(key) is not None}
        unknown = sorted(set(given) - {field.name for field in fields(cls)} - set(_SCALES))
        if unknown:
            raise CheckpointError(f"vae config: unknown fields {unknown}")
        kept = {key: value for key, value in given.items() if key not in _SCALES}
        values: dict[str, Any] = {key: tuple(value) if key in _TUPLES else value for key, value in kept.items()}
        try:
            config = cls(**values)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"vae config: {error}") from error
        config._check_scales(scales)
        return config

    def _check_scales(self, scales: Mapping[str, int]) -> None:
        actual = {"scale_factor_temporal": self.temporal_ratio, "scale_factor_spatial": self.spatial_ratio}
        for key, value in scales.items():
            if value != actual[key]:
                raise CheckpointError(f"vae config: {key}={value}, but the stages give {actual[key]}")
