"""UniPC and DPM-Solver++ of second order on the flow path.

Both predict with the same formula. With lambda = log((1 - sigma) / sigma), h the step in lambda, and m the clean
estimates, newest first:

    x' = sigma'/sigma * x - alpha' * (e^-h - 1) * (m0 + (m0 - m1) / (2 * r)),    r = h_previous / h

UniPC then uses the next clean estimate to correct the step just made (UniC, B(h) = e^h - 1 form). First and last step
are of first order.

The weights are computed in float32 in the order of diffusers' schedulers, so that the same predictions give the same
latents bit for bit: in float64 they would be nearer to the formulas, and a steep trajectory would end elsewhere.

Sources: DPM-Solver++, arXiv 2211.01095; UniPC, arXiv 2302.04867.
"""

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
        self._sigmas = torch.tensor(levels.sigmas, dtype=torch.float32, device="cpu")
        self._log_snrs = torch.log(1 - self._sigmas) - torch.log(self._sigmas)
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
        newest, h = self._clean[0], self._log_snr_step(index)
        moved = self._move(latents, newest, index)
        if self._order(index) == 1:
            return moved
        previous = self._clean[1]
        if self._corrects:
            change = (previous - newest) / (-self._log_snr_step(index - 1) / h)
            return moved - self._gain(index) * (0.5 * change)
        change = 1.0 / (self._log_snr_step(index - 1) / h) * (newest - previous)
        return moved - 0.5 * self._gain(index) * change

    def _correct(self, clean: Tensor, start: Tensor, index: int) -> Tensor:
        """Redo the step that led to `index`, now that the clean estimate there is known."""
        newest, last = self._clean[0], index - 1
        moved = self._move(start, newest, last)
        if self._order(last) == 1:
            return moved - self._gain(last) * (0.5 * (clean - newest))
        h = self._log_snr_step(last)
        ratio = -self._log_snr_step(last - 1) / h
        past, present = _corrector_weights(h, ratio)
        return moved - self._gain(last) * (past * ((self._clean[1] - newest) / ratio) + present * (clean - newest))

    def _move(self, latents: Tensor, clean: Tensor, index: int) -> Tensor:
        """Step `index` of first order."""
        return self._sigmas[index + 1] / self._sigmas[index] * latents - self._gain(index) * clean

    def _gain(self, index: int) -> Tensor:
        h = self._log_snr_step(index)
        # Each solver's published form; they round differently.
        decay = torch.expm1(-h) if self._corrects else torch.exp(-h) - 1.0
        return (1 - self._sigmas[index + 1]) * decay

    def _log_snr_step(self, index: int) -> Tensor:
        return self._log_snrs[index + 1] - self._log_snrs[index]


def _corrector_weights(h: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the past and the present difference in UniC-2: they solve [[1, 1], [ratio, 1]] w = b."""
    phi_1 = torch.expm1(-h)
    phi_2 = phi_1 / -h - 1
    phi_3 = phi_2 / -h - 0.5
    matrix = torch.stack((torch.ones(2), torch.stack((ratio, torch.ones(())))))
    past, present = torch.linalg.solve(matrix, torch.stack((phi_2 / phi_1, phi_3 * 2 / phi_1))).unbind()
    return past, present
