"""The tiny decoder as a causal stream: the same calls and the same kind of state as the full VAE's decoder.

Shapes: B videos, C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from reelray.workers.models.wan.taehv.config import SPATIAL_RATIO, TEMPORAL_RATIO, TaehvConfig
from reelray.workers.models.wan.taehv.fused import FusedNetwork
from reelray.workers.models.wan.taehv.network import Network
from reelray.workers.models.wan.vae.state import CausalState, Slots
from reelray.workers.models.wan.vae.stream import Direction, advance

GPU_LATENTS_PER_CALL = 4


class TaehvState(CausalState):
    """State of a video that a tiny decoder decodes."""

    __slots__ = ()
    KIND = "taehv"


class Taehv(nn.Module):
    """A TAEHV decoder of Wan2.1's latents, as the transformer makes them: normalised, not denormalised.

    Args:
        config: Sizes. Weights start from torch's default initialisation.
        digest: Names the weights.
    """

    def __init__(self, config: TaehvConfig, *, digest: str = "drawn") -> None:
        super().__init__()
        self.config = config
        self.digest = digest
        self.network = Network(config)
        self.latents_per_call = 1
        self._fused: FusedNetwork | None = None

    def to_inference(self, device: torch.device | str, dtype: torch.dtype) -> Self:
        """Move to `device`, freeze, and choose the fastest arithmetic there; on a GPU, bf16 goes by `FusedNetwork`.

        Chunkings give the same bits as long as `latents_per_call` is 1, as it is on a CPU.
        """
        self.to(device=torch.device(device), dtype=dtype).eval().requires_grad_(False)
        for parameter in self.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        if torch.device(device).type == "cuda" and dtype == torch.bfloat16:
            self._fused, self.latents_per_call = FusedNetwork(self.network), GPU_LATENTS_PER_CALL
        return self

    def new_decode_state(self, batch: int = 1) -> TaehvState:
        """State of a video of which nothing is decoded yet."""
        return TaehvState(batch=batch, weights=self.digest)

    @torch.no_grad()
    def decode(self, latents_BCTHW: Tensor, state: TaehvState) -> Tensor:
        """Decode the next latent frames of a video.

        Args:
            latents_BCTHW: Normalised latents, T >= 1.
            state: Brought forward in place.

        Returns:
            Pixels in [0, 1] (B, 3, 4T, 8H, 8W); the first latent frame of a video gives one pixel frame only.

        Raises:
            SizeError: If the latents do not go on from `state`.
        """
        way = Direction(first=self._first, step=self._step, frames_per_latent=1, scale_in=1, scale_out=SPATIAL_RATIO)
        return advance(latents_BCTHW.to(self.network.entry.weight.dtype), state, way, self.latents_per_call)

    def _run(self, latents_BCTHW: Tensor, slots: Sequence[Tensor] | None) -> tuple[Tensor, Slots]:
        return self.network(latents_BCTHW, slots) if self._fused is None else self._fused(latents_BCTHW, slots)

    def _first(self, latents_BCTHW: Tensor) -> tuple[Tensor, Slots]:
        pixels_BCTHW, slots = self._run(latents_BCTHW, None)
        return pixels_BCTHW[:, :, TEMPORAL_RATIO - 1 :].clamp(0.0, 1.0), slots

    def _step(self, latents_BCTHW: Tensor, slots: Sequence[Tensor]) -> tuple[Tensor, Slots]:
        pixels_BCTHW, slots = self._run(latents_BCTHW, slots)
        return pixels_BCTHW.clamp_(0.0, 1.0), tuple(slots)
