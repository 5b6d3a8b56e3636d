"""A sampler moves the latents of one chunk from noise to clean, one prediction at a time."""

from typing import Protocol

from torch import Tensor

from reelray.proto.recipe import Prediction, Schedule, Solver
from reelray.workers.samplers.euler import EulerSampler
from reelray.workers.samplers.multistep import MultistepSampler
from reelray.workers.samplers.renoise import RenoiseSampler
from reelray.workers.samplers.sigmas import plan_noise_levels


class Sampler(Protocol):
    """Solver and history of one chunk of one request.

    Attributes:
        sigmas: Noise level of each step and a final 0.
        timesteps: What the network is told at each step, in [0, 1000].
        needs_noise: True when `step` wants fresh noise at every step but the last.
    """

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]
    needs_noise: bool

    def step(self, prediction: Tensor, latents: Tensor, index: int, noise: Tensor | None = None) -> Tensor:
        """Move the latents from step `index` to the next noise level.

        Args:
            prediction: Output of the network at `latents`, guidance already mixed in; any shape, float32.
            latents: Noisy latents of this step, same shape, float32.
            index: Index of the step, counted from 0; steps run in order, once each.
            noise: Fresh standard normal noise of the same shape, when `needs_noise`.

        Returns:
            Latents at ``sigmas[index + 1]``, float32.

        Raises:
            ValueError: `index` is not the next step, or noise is missing.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """History needed to go on after the last `step`; the tensors are never written to afterwards."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue where `state` was taken."""
        ...


def build_sampler(schedule: Schedule) -> Sampler:
    """Make the sampler of one chunk.

    Raises:
        ValueError: The schedule cannot be sampled; the message names the field.
    """
    levels = plan_noise_levels(schedule)
    if schedule.prediction is Prediction.EPSILON and levels.sigmas[0] >= 1:
        raise ValueError("prediction is epsilon and the first timestep is 1000; pure noise tells nothing there")
    match schedule.solver:
        case Solver.EULER:
            return EulerSampler(levels, schedule.prediction)
        case Solver.UNIPC | Solver.DPMPP:
            corrects = schedule.solver is Solver.UNIPC
            return MultistepSampler(levels, schedule.prediction, corrects=corrects, loses_start=schedule.loses_start)
        case Solver.X0_RENOISE | Solver.LCM:
            return RenoiseSampler(levels, schedule.prediction)
