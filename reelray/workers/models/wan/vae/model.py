"""The VAE as one module, with the parameter names of diffusers' `AutoencoderKLWan`.

Shapes: B batch, C channels, T frames (pixel or latent), H/W height/width.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from reelray.proto.errors import SizeError
from reelray.workers.models.wan.vae.config import WanVaeConfig
from reelray.workers.models.wan.vae.decoder import Decoder
from reelray.workers.models.wan.vae.encoder import Encoder
from reelray.workers.models.wan.vae.footprint import choose_tiling, estimate_decode_bytes
from reelray.workers.models.wan.vae.fused_decoder import FusedDecoder
from reelray.workers.models.wan.vae.layers import CausalConv3d, FrameAttention, History
from reelray.workers.models.wan.vae.margin import RowExchange
from reelray.workers.models.wan.vae.resample import Downsample, Upsample
from reelray.workers.models.wan.vae.state import CausalState, DecodeState, EncodeState, Slots, Tiling
from reelray.workers.models.wan.vae.stream import Direction, advance

GPU_LATENTS_PER_CALL = 4
_LOGVAR_RANGE = (-30.0, 20.0)


def decodes_several(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether several latent frames go through the network at once."""
    return device.type == "cuda" and dtype == torch.bfloat16


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
        self.latents_per_call = 1
        self._channels_last = False
        self._fused: FusedDecoder | None = None
        self.encoder = Encoder(config)
        self.quant_conv = CausalConv3d(config.z_dim * 2, config.z_dim * 2, (1, 1, 1))
        self.post_quant_conv = CausalConv3d(config.z_dim, config.z_dim, (1, 1, 1))
        self.decoder = Decoder(config)
        self._set_statistics()

    def to_channels_last(self) -> Self:
        """Lay the convolution weights out channels-last, in place; values stay. Feed channels_last_3d tensors then."""
        for parameter in self.parameters():
            formats = {4: torch.channels_last, 5: torch.channels_last_3d}
            if parameter.dim() in formats:
                parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])
        for module in self.modules():
            if isinstance(module, CausalConv3d | FrameAttention | Downsample | Upsample):
                module.channels_last = True
        self._channels_last = True
        return self

    def to_inference(
        self, device: torch.device | str, dtype: torch.dtype | None = None, *, subpixel: bool = False
    ) -> Self:
        """Move to `device`, freeze, and choose the fastest arithmetic measured there (see README.md).

        Results then differ from the exact fp32 path by rounding; every chunking still gives the same bits as long as
        `latents_per_call` is 1. On a GPU, bf16 decodes through `FusedDecoder`, whose kernels serve every shape, and
        several latent frames go through the network at once.

        Args:
            device: Where to run.
            dtype: Weights and activations; None means bf16.
            subpixel: Replace nearest upsampling and its 3x3 by four 2x2 convolutions.
        """
        self.to(device=torch.device(device), dtype=dtype or torch.bfloat16).eval().requires_grad_(False)
        self.to_channels_last()
        by_taps = torch.device(device).type == "cpu" and dtype in (torch.float32, torch.float64)
        for module in self.modules():
            if isinstance(module, CausalConv3d):
                module.by_taps = by_taps
            elif isinstance(module, Upsample):
                module.subpixel = subpixel
        self._set_statistics()
        if decodes_several(self._weight.device, self._dtype):
            self._fused = FusedDecoder(self.post_quant_conv, self.decoder)
            self.latents_per_call = GPU_LATENTS_PER_CALL
        return self

    def compile_steps(self) -> Self:
        """Wrap the four step functions in `torch.compile`, one static graph for each shape they meet."""
        for name in ("decode_first", "decode_step", "encode_first", "encode_step"):
            setattr(self, name, torch.compile(getattr(self, name), fullgraph=True, dynamic=False))
        return self

    def normalise(self, latents_BCTHW: Tensor) -> Tensor:
        """Shift and scale raw latents to zero mean and unit variance a channel: what the DiT works on."""
        return ((latents_BCTHW.float() - self.latents_mean) / self.latents_std).to(latents_BCTHW.dtype)

    def denormalise(self, latents_BCTHW: Tensor) -> Tensor:
        """Undo `normalise`."""
        return (latents_BCTHW.float() * self.latents_std + self.latents_mean).to(latents_BCTHW.dtype)

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
        return _split_moments(self.quant_conv(self.encoder(video_BCTHW)))

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

    def decode_first(self, latents_BCTHW: Tensor) -> tuple[Tensor, Slots]:
        """Decode the first latent frames of a video; a function of its arguments, fit for compilation.

        Args:
            latents_BCTHW: Raw latents (B, z_dim, T, H, W), T >= 1.

        Returns:
            Pixels (B, C, 1 + (T - 1)·temporal_ratio, ...) in [-1, 1], and the slots that `decode_step` takes.
        """
        return self._decode(latents_BCTHW, None)

    def decode_step(self, latents_BCTHW: Tensor, slots: Sequence[Tensor]) -> tuple[Tensor, Slots]:
        """Decode later latent frames; shapes depend on T alone, slots keep theirs, nothing is mutated.

        Args:
            latents_BCTHW: Raw latents (B, z_dim, T, H, W), T >= 1.
            slots: As returned by the call before.

        Returns:
            Pixels (B, C, T·temporal_ratio, ...) in [-1, 1], and the new slots.
        """
        return self._decode(latents_BCTHW, slots)

    def encode_first(self, video_BCTHW: Tensor) -> tuple[Tensor, Slots]:
        """Encode the first 1 + k·temporal_ratio frames; returns moments (B, 2·z_dim, 1 + k, H, W) and slots."""
        return self._encode(video_BCTHW, None)

    def encode_step(self, video_BCTHW: Tensor, slots: Sequence[Tensor]) -> tuple[Tensor, Slots]:
        """Encode k·temporal_ratio later frames; returns moments (B, 2·z_dim, k, H, W) and the new slots."""
        return self._encode(video_BCTHW, slots)

    def new_decode_state(self, batch: int = 1, tiling: Tiling | None = None) -> DecodeState:
        """State of a video of which nothing is decoded yet."""
        return DecodeState(batch=batch, tiling=tiling)

    def new_encode_state(self, batch: int = 1, tiling: Tiling | None = None) -> EncodeState:
        """State of a video of which nothing is encoded yet."""
        return EncodeState(batch=batch, tiling=tiling)

    def decode(self, latents_BCTHW: Tensor, state: DecodeState, exchange: RowExchange | None = None) -> Tensor:
        """Decode the next latent frames of a video.

        In fp32 with the weights as loaded, the pixels are bit-equal to diffusers' `AutoencoderKLWan.decode` however
        the latents are cut into calls.

        Args:
            latents_BCTHW: Raw latents (B, z_dim, T, H, W), T >= 1.
            state: Brought forward in place.
            exchange: How to reach other ranks' rows, when latents and state are those of this rank's rows and margins.

        Returns:
            Pixels (B, C, T·temporal_ratio, H·spatial_ratio, W·spatial_ratio) in [-1, 1]; the first latent frame of a
            video gives one pixel frame only.

        Raises:
            SizeError: If the latents do not go on from `state`.
        """
        way = Direction(
            first=self.decode_first, step=self.decode_step, frames_per_latent=1,
            scale_in=1, scale_out=self.config.spatial_ratio,
        )  # fmt: skip
        way = way if exchange is None else _by_rows(way, self._decode, exchange)
        return self._advance(latents_BCTHW, state, way)

    def encode(
        self, video_BCTHW: Tensor, state: EncodeState, exchange: RowExchange | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode the next frames of a video.

        Args:
            video_BCTHW: Pixels in [-1, 1]; 1 + k·temporal_ratio frames at first, k·temporal_ratio later.
            state: Brought forward in place.
            exchange: As `decode`.

        Returns:
            Mean and log-variance of the raw latents, as `encode_whole`.

        Raises:
            SizeError: If the frames do not go on from `state`, or H or W is not a multiple of spatial_ratio.
        """
        if exchange is None:
            _check_sides(video_BCTHW, self.config.spatial_ratio)
        way = Direction(
            first=self.encode_first, step=self.encode_step, frames_per_latent=self.config.temporal_ratio,
            scale_in=self.config.spatial_ratio, scale_out=1,
        )  # fmt: skip
        way = way if exchange is None else _by_rows(way, self._encode, exchange)
        return _split_moments(self._advance(video_BCTHW, state, way))

    def decode_bytes(self, height: int, width: int, latent_frames: int) -> int:
        """Peak bytes, beside the weights, of decoding `latent_frames` of height x width pixels in one untiled call."""
        return estimate_decode_bytes(
            self.config, height, width, latent_frames,
            itemsize=self._dtype.itemsize, latents_per_call=self.latents_per_call,
        )  # fmt: skip

    def choose_tiling(self, height: int, width: int, latent_frames: int, budget_bytes: int) -> Tiling | None:
        """The tiling whose decode fits `budget_bytes`, None if no tiling is needed; `ResourceError` if none fits."""
        return choose_tiling(
            self.config, height, width, latent_frames,
            itemsize=self._dtype.itemsize, latents_per_call=self.latents_per_call, budget_bytes=budget_bytes,
        )  # fmt: skip

    def _set_statistics(self) -> None:
        """In fp32 whatever the weights are: a cast of the module would round them for good."""
        for name in ("latents_mean", "latents_std"):
            values = torch.tensor(getattr(self.config, name), dtype=torch.float32, device=self._weight.device)
            self.register_buffer(name, values.view(1, -1, 1, 1, 1), persistent=False)

    @property
    def _weight(self) -> Tensor:
        return self.post_quant_conv.weight

    @property
    def _dtype(self) -> torch.dtype:
        return self._weight.dtype

    def _decode(
        self, latents_BCTHW: Tensor, slots: Sequence[Tensor] | None, exchange: RowExchange | None = None
    ) -> tuple[Tensor, Slots]:
        if self._fused is not None:
            return self._fused(latents_BCTHW, slots, exchange)
        history = History(slots, channels_last=self._channels_last, exchange=exchange)
        video = self.decoder(self.post_quant_conv(latents_BCTHW), history).clamp(-1.0, 1.0)
        return history.margin.own(video), tuple(history.kept)

    def _encode(
        self, video_BCTHW: Tensor, slots: Sequence[Tensor] | None, exchange: RowExchange | None = None
    ) -> tuple[Tensor, Slots]:
        history = History(slots, channels_last=self._channels_last, exchange=exchange)
        moments = self.quant_conv(self.encoder(video_BCTHW, history))
        return history.margin.own(moments), tuple(history.kept)

    def _advance(self, x_BCTHW: Tensor, state: CausalState, way: Direction) -> Tensor:
        x_BCTHW = x_BCTHW.to(self._dtype)
        if self._channels_last:
            x_BCTHW = x_BCTHW.contiguous(memory_format=torch.channels_last_3d)
        with torch.no_grad():
            return advance(x_BCTHW, state, way, self.latents_per_call)

    def _check_video(self, video_BCTHW: Tensor) -> None:
        frames, per_latent = video_BCTHW.shape[2], self.config.temporal_ratio
        if (frames - 1) % per_latent:
            raise SizeError(f"{frames} frames: the VAE takes 1, {1 + per_latent}, {1 + 2 * per_latent}, ...")
        _check_sides(video_BCTHW, self.config.spatial_ratio)


def _check_sides(video_BCTHW: Tensor, per_side: int) -> None:
    height, width = video_BCTHW.shape[3:]
    if height % per_side or width % per_side:
        raise SizeError(f"{height}x{width} pixels: height and width must be multiples of {per_side}")


def _by_rows(way: Direction, run: Callable[..., tuple[Tensor, Slots]], exchange: RowExchange) -> Direction:
    """With margins, a tensor's height is no multiple of the scale; it is never cut into tiles."""
    first, step = partial(run, slots=None, exchange=exchange), partial(run, exchange=exchange)
    return replace(way, first=first, step=step, scale_in=1, scale_out=1)


def _split_moments(moments_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
    mean, logvar = moments_BCTHW.chunk(2, dim=1)
    return mean, logvar.clamp(*_LOGVAR_RANGE)
