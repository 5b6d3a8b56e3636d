"""One chunk on its way from noise to clean latents: the one place where the engine meets the samplers.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width.
"""

from typing import Any, Self

import torch
from torch import Tensor

from reelray.proto.errors import UnsupportedError
from reelray.proto.request import RenderRequest
from reelray.workers.samplers.api import build_sampler
from reelray.workers.samplers.guidance import plan_weights
from reelray.workers.samplers.noise import INITIAL_STEP, draw_noise, given_step
from reelray.workers.samplers.sigmas import TRAIN_STEPS


class ChunkInWork:
    """Latents of one chunk, with the solver that moves them.

    Args:
        request: Whose chunk; seed and recipe are read.
        chunk: Index of the chunk.
        shape_CTHW: Shape of its latents.
        device: Where the latents live.
        latents_1CTHW: What they are by now; None draws the noise they begin with.

    Raises:
        UnsupportedError: The recipe cannot be sampled.
    """

    def __init__(
        self,
        request: RenderRequest,
        chunk: int,
        shape_CTHW: tuple[int, int, int, int],
        device: torch.device,
        latents_1CTHW: Tensor | None = None,
    ) -> None:
        self._seed = request.seed
        self._chunk = chunk
        self._shape_CTHW = shape_CTHW
        try:
            self._sampler = build_sampler(request.recipe.schedule.of_chunk(chunk))
            self._weights = plan_weights(request.recipe.guidance, self._sampler.sigmas)
        except ValueError as error:
            raise UnsupportedError(f"recipe {request.recipe.name}: {error}") from None
        latents_1CTHW = self._draw(INITIAL_STEP) if latents_1CTHW is None else latents_1CTHW
        self.latents_1CTHW = latents_1CTHW.to(device)

    def timestep(self, step: int) -> float:
        """Timestep in [0, 1000] at which the transformer is evaluated."""
        return self._sampler.timesteps[step]

    def weight(self, step: int) -> float:
        """Guidance weight; 1.0 where the unconditional branch is not needed."""
        return self._weights[step]

    def advance(self, step: int, prediction_1CTHW: Tensor) -> None:
        """Move the latents by one step; they stay float32."""
        wants_noise = self._sampler.needs_noise and step < len(self._weights) - 1
        noise = self._draw(step).to(self.latents_1CTHW.device) if wants_noise else None
        self.latents_1CTHW = self._sampler.step(prediction_1CTHW, self.latents_1CTHW, step, noise)

    def noised(self, timestep: float, turn: int) -> Tensor:
        """The clean chunk a little noised, as the past that a round is given; for every forward of it anew.

        Args:
            timestep: How much, in [0, 1000].
            turn: Which forward of the round.
        """
        if timestep == 0:
            return self.latents_1CTHW
        noise_1CTHW = self._draw(given_step(turn)).to(self.latents_1CTHW.device)
        return torch.lerp(self.latents_1CTHW, noise_1CTHW, timestep / TRAIN_STEPS)

    def state(self) -> dict[str, Any]:
        """Latents and solver history where they lie; see `from_state`."""
        return {"chunk": self._chunk, "latents": self.latents_1CTHW, "solver": self._sampler.state()}

    @classmethod
    def from_state(cls, request: RenderRequest, state: dict[str, Any], device: torch.device) -> Self:
        """The chunk that `state` was taken of."""
        latents_1CTHW: Tensor = state["latents"]
        _, channels, frames, height, width = latents_1CTHW.shape
        chunk = cls(request, int(state["chunk"]), (channels, frames, height, width), device, latents_1CTHW)
        chunk._sampler.restore({name: value.to(device) for name, value in state["solver"].items()})
        return chunk

    def _draw(self, step: int) -> Tensor:
        channels, latent_frames, height, width = self._shape_CTHW
        return draw_noise(
            seed=self._seed,
            chunk=self._chunk,
            step=step,
            channels=channels,
            latent_frames=latent_frames,
            height=height,
            width=width,
        )
