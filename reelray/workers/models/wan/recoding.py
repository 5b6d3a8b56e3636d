"""Pictures of a video encoded anew, each as if a video began with it.

Shape suffixes: C channels, T latent frames, F pixel frames, H/W latent height/width, or those of a picture.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from reelray.workers.models.wan.vae import WanVae
from reelray.workers.models.wan.vae.state import DecodeState, Tiling


class WanRecoder:
    """Implements `Recoder`: a decoder of its own, whole on every rank, whoever makes the pictures that are shown.

    Args:
        vae: Decodes and encodes.
        reach: Latest latent frames whose pictures may be asked for.
        device: Where it computes.
        choose_tiling: How pictures of some latents are cut where memory is short.
    """

    def __init__(
        self, vae: WanVae, reach: int, device: torch.device, choose_tiling: Callable[[Tensor], Tiling | None]
    ) -> None:
        self._vae, self._reach, self._place, self._choose_tiling = vae, reach, device, choose_tiling
        self._state = vae.new_decode_state()
        self._pictures: dict[int, Tensor] = {}  # last one of each latent frame [1, C, 1, H, W]

    @property
    def state(self) -> DecodeState:
        """See `Recoder.state`."""
        return self._state

    def decode(self, latents_1CTHW: Tensor) -> None:
        """See `Recoder.decode`."""
        vae, state, first = self._vae, self._state, self._state.latent_frames
        if first == 0:
            state.tiling = self._choose_tiling(latents_1CTHW)
        pixels_1CFHW = vae.decode(vae.denormalise(latents_1CTHW.to(self._place).float()), state)
        ends = range(pixels_1CFHW.shape[2] - 1, -1, -vae.config.temporal_ratio)
        for frame, end in zip(range(state.latent_frames - 1, first - 1, -1), ends, strict=True):
            self._pictures[frame] = pixels_1CFHW[:, :, end : end + 1].clone()
        for frame in [frame for frame in self._pictures if frame < state.latent_frames - self._reach]:
            del self._pictures[frame]

    def encode(self, latent_frame: int) -> Tensor:
        """See `Recoder.encode`."""
        mean_1C1HW, _ = self._vae.encode(self._pictures[latent_frame], self._vae.new_encode_state())
        return self._vae.normalise(mean_1C1HW).float()

    def show(self) -> tuple[dict[str, Any], tuple[Tensor, ...]]:
        """See `Recoder.show`."""
        facts = {"state": self._state.facts, "pictures": sorted(self._pictures)}
        return facts, (*self._state.slots, *(self._pictures[frame] for frame in sorted(self._pictures)))

    def take(self, facts: Mapping[str, Any], tensors: Sequence[Tensor]) -> None:
        """See `Recoder.take`."""
        there = iter([tensor.to(self._place) for tensor in tensors])
        count = sum(facts["state"]["slots"])
        self._state = DecodeState.build(facts["state"], list(islice(there, count)))
        self._pictures = dict(zip(facts["pictures"], there, strict=True))
