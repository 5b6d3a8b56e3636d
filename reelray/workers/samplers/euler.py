"""Euler steps along the flow."""

from torch import Tensor

from reelray.proto.recipe import Prediction
from reelray.workers.samplers.predictions import convert_to_flow
from reelray.workers.samplers.sigmas import NoiseLevels


class EulerSampler:
    """First-order solver of dx/dsigma = flow; it has no history."""

    needs_noise = False

    def __init__(self, levels: NoiseLevels, prediction: Prediction) -> None:
        self.sigmas = levels.sigmas
        self.timesteps = levels.timesteps
        self._prediction = prediction

    def step(self, prediction: Tensor, latents: Tensor, index: int, noise: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """See `Sampler.step`; steps may be taken in any order."""
        sigma, following = self.sigmas[index], self.sigmas[index + 1]
        flow = convert_to_flow(prediction, latents, sigma, self._prediction)
        return latents + (following - sigma) * flow

    def state(self) -> dict[str, Tensor]:
        """Nothing: every step stands alone."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue where `state` was taken."""
