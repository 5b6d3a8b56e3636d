"""One chunk on its way from noise to clean latents: the one place where the engine meets the samplers.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width.
"""

from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from reelray.proto.errors import UnsupportedError
from reelray.proto.request import RenderRequest
from reelray.workers.samplers.api import build_sampler
from reelray.workers.samplers.guidance import plan_weights
from reelray.workers.samplers.noise import INITIAL_STEP, given_step
from reelray.workers.samplers.noise_ahead import Draw, NoiseSource
from reelray.workers.samplers.sigmas import TRAIN_STEPS


class ChunkInWork:
    """Latents of one chunk, with the solver that moves them.

    Args:
        request: Whose chunk; seed and recipe are read.
        chunk: Index of the chunk.
        shape_CTHW: Shape of its latents.
        noise: Draws for the device where the latents live.
        latents_1CTHW: What they are by now, on that device; None draws the noise they begin with.

    Raises:
        UnsupportedError: The recipe cannot be sampled.
    """

    def __init__(
        self,
        request: RenderRequest,
        chunk: int,
        shape_CTHW: tuple[int, int, int, int],
        noise: NoiseSource,
        latents_1CTHW: Tensor | None = None,
    ) -> None:
        self._noise = noise
        self._first_draw = Draw(seed=request.seed, chunk=chunk, step=INITIAL_STEP, shape_CTHW=shape_CTHW)
        try:
            self._sampler = build_sampler(request.recipe.schedule.of_chunk(chunk))
            self._weights = plan_weights(request.recipe.guidance, self._sampler.sigmas)
        except ValueError as error:
            raise UnsupportedError(f"recipe {request.recipe.name}: {error}") from None
        self.latents_1CTHW = noise.take(self._first_draw) if latents_1CTHW is None else latents_1CTHW
        if latents_1CTHW is None and self._wants_noise(0):
            noise.expect(self._draw_of(0))

    def timestep(self, step: int) -> float:
        """Timestep in [0, 1000] at which the transformer is evaluated."""
        return self._sampler.timesteps[step]

    def weight(self, step: int) -> float:
        """Guidance weight; 1.0 where the unconditional branch is not needed."""
        return self._weights[step]

    def advance(self, step: int, prediction_1CTHW: Tensor) -> None:
        """Move the latents by one step; they stay float32."""
        noise_1CTHW = self._noise.take(self._draw_of(step)) if self._wants_noise(step) else None
        self.latents_1CTHW = self._sampler.step(prediction_1CTHW, self.latents_1CTHW, step, noise_1CTHW)
        if self._wants_noise(step + 1):
            self._noise.expect(self._draw_of(step + 1))

    def noised(self, timestep: float, turn: int) -> Tensor:
        """The clean chunk a little noised, as the past that a round is given; for every forward of it anew.

        Args:
            timestep: How much, in [0, 1000].
            turn: Which forward of the round.
        """
        if timestep == 0:
            return self.latents_1CTHW
        noise_1CTHW = self._noise.take(self._draw_of(given_step(turn)))
        return torch.lerp(self.latents_1CTHW, noise_1CTHW, timestep / TRAIN_STEPS)

    def state(self) -> dict[str, Any]:
        """Latents and solver history where they lie; see `from_state`."""
        return {"chunk": self._first_draw.chunk, "latents": self.latents_1CTHW, "solver": self._sampler.state()}

    @classmethod
    def from_state(
        cls, request: RenderRequest, state: dict[str, Any], device: torch.device, noise: NoiseSource
    ) -> Self:
        """The chunk that `state` was taken of, on the device for which `noise` draws."""
        latents_1CTHW: Tensor = state["latents"].to(device)
        _, channels, frames, height, width = latents_1CTHW.shape
        chunk = cls(request, int(state["chunk"]), (channels, frames, height, width), noise, latents_1CTHW)
        chunk._sampler.restore({name: value.to(device) for name, value in state["solver"].items()})
        return chunk

    def _wants_noise(self, step: int) -> bool:
        return self._sampler.needs_noise and step < len(self._weights) - 1

    def _draw_of(self, step: int) -> Draw:
        return replace(self._first_draw, step=step)
