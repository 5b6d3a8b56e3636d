"""UniPC and DPM-Solver++ of second order on the flow path.

Both predict with the same formula. With lambda = log((1 - sigma) / sigma), h the step in lambda, and m the clean
estimates, newest first:

    x' = sigma'/sigma * x - alpha' * (e^-h - 1) * (m0 + (m0 - m1) / (2 * r)),    r = h_previous / h

UniPC then uses the next clean estimate to correct the step just made (UniC, B(h) = e^h - 1 form). First and last step
are of first order.

Sources: DPM-Solver++, arXiv 2211.01095; UniPC, arXiv 2302.04867.
"""

import math

import torch
from torch import Tensor

from reelray.proto.recipe import Prediction
from reelray.workers.samplers.predictions import convert_to_x0
from reelray.workers.samplers.sigmas import NoiseLevels

ORDER = 2


class MultistepSampler:
    """Second-order multistep solver; UniPC when it corrects, DPM-Solver++ when it does not.

    Args:
        levels: Noise levels; the first sigma is below 1.
        prediction: What the network predicts.
        corrects: Apply UniC to each step once the next prediction is known.
        loses_start: Correct the first step from where it led; see `Schedule`.
    """

    needs_noise = False

    def __init__(
        self, levels: NoiseLevels, prediction: Prediction, *, corrects: bool, loses_start: bool = False
    ) -> None:
        self.sigmas = levels.sigmas
        self.timesteps = levels.timesteps
        self._prediction = prediction
        self._corrects, self._loses_start = corrects, loses_start
        self._next_index = 0
        self._clean: list[Tensor] = []  # newest first, at most ORDER
        self._start: Tensor | None = None  # latents the last step started from

    def step(self, prediction: Tensor, latents: Tensor, index: int, noise: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """See `Sampler.step`."""
        if index != self._next_index or index >= len(self.timesteps):
            raise ValueError(f"step {index} was asked for; the next of {len(self.timesteps)} is {self._next_index}")
        clean = convert_to_x0(prediction, latents, self.sigmas[index], self._prediction)
        if self._corrects and self._start is not None:
            start = latents if self._loses_start and index == 1 else self._start
            latents = self._correct(clean, start, index)
        self._clean = [clean, *self._clean][:ORDER]
        self._start = latents if self._corrects else None
        self._next_index = index + 1
        return self._predict(latents, index)

    def state(self) -> dict[str, Tensor]:
        """Clean estimates, the start of the last step and the index of the next one."""
        state = {f"clean_{age}": clean for age, clean in enumerate(self._clean)}
        if self._start is not None:
            state["start"] = self._start
        return state | {"next_index": torch.tensor(self._next_index)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue where `state` was taken."""
        self._clean = [state[f"clean_{age}"] for age in range(ORDER) if f"clean_{age}" in state]
        self._start = state.get("start")
        self._next_index = int(state["next_index"])

    def _order(self, index: int) -> int:
        return min(ORDER, index + 1, len(self.timesteps) - index)

    def _predict(self, latents: Tensor, index: int) -> Tensor:
        newest = self._clean[0]
        sigma, following = self.sigmas[index], self.sigmas[index + 1]
        gain = (1 - following) * math.expm1(-self._log_snr_step(index))
        moved = following / sigma * latents - gain * newest
        if self._order(index) == 1:
            return moved
        ratio = self._log_snr_step(index - 1) / self._log_snr_step(index)
        return moved - gain * 0.5 / ratio * (newest - self._clean[1])

    def _correct(self, clean: Tensor, start: Tensor, index: int) -> Tensor:
        """Redo the step that led to `index`, now that the clean estimate there is known."""
        newest = self._clean[0]
        sigma, reached = self.sigmas[index - 1], self.sigmas[index]
        h = self._log_snr_step(index - 1)
        gain = (1 - reached) * math.expm1(-h)
        moved = reached / sigma * start - gain * newest
        if self._order(index - 1) == 1:
            return moved - gain * 0.5 * (clean - newest)
        ratio = -self._log_snr_step(index - 2) / h
        past, present = _corrector_weights(h, ratio)
        return moved - gain * (past / ratio * (self._clean[1] - newest) + present * (clean - newest))

    def _log_snr_step(self, index: int) -> float:
        return _log_snr(self.sigmas[index + 1]) - _log_snr(self.sigmas[index])


def _log_snr(sigma: float) -> float:
    return math.inf if sigma == 0 else math.log((1 - sigma) / sigma)


def _corrector_weights(h: float, ratio: float) -> tuple[float, float]:
    """Weights of the past and the present difference in UniC-2: they solve [[1, 1], [ratio, 1]] w = b."""
    phi_1 = math.expm1(-h)
    phi_2 = phi_1 / -h - 1
    phi_3 = phi_2 / -h - 0.5
    b_1, b_2 = phi_2 / phi_1, 2 * phi_3 / phi_1
    past = (b_1 - b_2) / (1 - ratio)
    return past, b_1 - past
