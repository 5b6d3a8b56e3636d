"""The VAE as one module, with the parameter names of diffusers' `AutoencoderKLWan`.

Shapes: B batch, C channels, T frames (pixel or latent), H/W height/width.
"""

from typing import Self

import torch
from torch import Tensor, nn

from reelray.proto.errors import SizeError
from reelray.workers.models.wan.vae.config import WanVaeConfig
from reelray.workers.models.wan.vae.decoder import Decoder
from reelray.workers.models.wan.vae.encoder import Encoder
from reelray.workers.models.wan.vae.layers import CausalConv3d

_LOGVAR_RANGE = (-30.0, 20.0)


class WanVae(nn.Module):
    """Wan2.1 video VAE. Latents are raw VAE latents unless a name says normalised.

    Args:
        config: Shape of the network. Weights start from torch's default initialisation.
    """

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, config: WanVaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = CausalConv3d(config.z_dim * 2, config.z_dim * 2, (1, 1, 1))
        self.post_quant_conv = CausalConv3d(config.z_dim, config.z_dim, (1, 1, 1))
        self.decoder = Decoder(config)
        for name in ("latents_mean", "latents_std"):
            values = torch.tensor(getattr(config, name), dtype=torch.float32).view(1, -1, 1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def to_channels_last(self) -> Self:
        """Lay the convolution weights out channels-last, in place; values stay. Feed channels_last_3d tensors then."""
        for parameter in self.parameters():
            formats = {4: torch.channels_last, 5: torch.channels_last_3d}
            if parameter.dim() in formats:
                parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])
        return self

    def normalise(self, latents_BCTHW: Tensor) -> Tensor:
        """Shift and scale raw latents to zero mean and unit variance a channel: what the DiT works on."""
        return (latents_BCTHW - self.latents_mean.to(latents_BCTHW)) / self.latents_std.to(latents_BCTHW)

    def denormalise(self, latents_BCTHW: Tensor) -> Tensor:
        """Undo `normalise`."""
        return latents_BCTHW * self.latents_std.to(latents_BCTHW) + self.latents_mean.to(latents_BCTHW)

    def encode_whole(self, video_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a whole clip in one differentiable pass.

        Args:
            video_BCTHW: Pixels in [-1, 1]; T must be 1 + k·temporal_ratio, H and W multiples of spatial_ratio.

        Returns:
            Mean and log-variance of the raw latents, each (B, z_dim, 1 + k, H/spatial_ratio, W/spatial_ratio).

        Raises:
            SizeError: If T, H or W does not fit.
        """
        self._check_video(video_BCTHW)
        mean, logvar = self.quant_conv(self.encoder(video_BCTHW)).chunk(2, dim=1)
        return mean, logvar.clamp(*_LOGVAR_RANGE)

    def decode_whole(self, latents_BCTHW: Tensor, *, clamp: bool = True) -> Tensor:
        """Decode a whole clip in one differentiable pass.

        Args:
            latents_BCTHW: Raw latents (B, z_dim, T, H, W).
            clamp: Clip pixels to [-1, 1] as inference does; a reconstruction loss wants False, which keeps gradients.

        Returns:
            Pixels (B, C, 1 + (T - 1)·temporal_ratio, H·spatial_ratio, W·spatial_ratio).
        """
        video: Tensor = self.decoder(self.post_quant_conv(latents_BCTHW))
        return video.clamp(-1.0, 1.0) if clamp else video

    def _check_video(self, video_BCTHW: Tensor) -> None:
        frames, height, width = video_BCTHW.shape[2:]
        per_latent, per_side = self.config.temporal_ratio, self.config.spatial_ratio
        if (frames - 1) % per_latent:
            raise SizeError(f"{frames} frames: the VAE takes 1, {1 + per_latent}, {1 + 2 * per_latent}, ...")
        if height % per_side or width % per_side:
            raise SizeError(f"{height}x{width} pixels: height and width must be multiples of {per_side}")
