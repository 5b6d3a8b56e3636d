"""Few-step sampling: jump to the clean estimate, then noise it again for the next level.

Serves distilled students (DMD family: sigma looked up in the training table), consistency models (exact sigma), and
one-step models (a list of one entry).
"""

from torch import Tensor

from reelray.proto.recipe import Prediction
from reelray.workers.samplers.predictions import convert_to_x0
from reelray.workers.samplers.sigmas import NoiseLevels


class RenoiseSampler:
    """x <- (1 - sigma') * x0 + sigma' * fresh noise; it has no history."""

    needs_noise = True

    def __init__(self, levels: NoiseLevels, prediction: Prediction) -> None:
        self.sigmas = levels.sigmas
        self.timesteps = levels.timesteps
        self._prediction = prediction

    def step(self, prediction: Tensor, latents: Tensor, index: int, noise: Tensor | None = None) -> Tensor:
        """See `Sampler.step`; steps may be taken in any order."""
        x0 = convert_to_x0(prediction, latents, self.sigmas[index], self._prediction)
        following = self.sigmas[index + 1]
        if following == 0:
            return x0
        if noise is None:
            raise ValueError(f"step {index} needs fresh noise and got none")
        return (1 - following) * x0 + following * noise.to(x0.device)

    def state(self) -> dict[str, Tensor]:
        """Nothing: every step stands alone."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue where `state` was taken."""
