"""Noise levels: which sigma and which timestep each denoise step works at.

The path is x = (1 - sigma) * x0 + sigma * noise, with timestep 1000 * sigma. Values are rounded to float32 because
the checkpoints were trained and are served elsewhere with float32 tables.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reelray.proto.recipe import Schedule, Solver

TRAIN_STEPS = 1000
FIRST_SIGMA_GAP = 1e-6
"""Multistep solvers need the logarithm of 1 - sigma: a first sigma of 1 is lowered by this much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseLevels:
    """Noise levels of one chunk.

    Args:
        sigmas: One per step and a final 0.
        timesteps: What the network is told at each step, in [0, 1000].
    """

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.sigmas) != len(self.timesteps) + 1 or self.sigmas[-1] != 0:
            raise ValueError(
                f"{len(self.sigmas)} sigmas ending in {self.sigmas[-1]} do not fit {len(self.timesteps)} steps; "
                "one per step and a final 0 are needed"
            )


def plan_noise_levels(schedule: Schedule) -> NoiseLevels:
    """Turn a schedule into sigmas and timesteps.

    Raises:
        ValueError: A warped timestep is not an integer, or the list ends in 0 for a solver that has no step there.
    """
    if schedule.timesteps:
        timesteps = warp_timesteps(schedule.timesteps, schedule.shift) if schedule.warp else schedule.timesteps
        return _listed_levels(schedule, timesteps)
    match schedule.solver:
        case Solver.UNIPC:
            return _multistep_levels(
                shift_sigmas(np.linspace(1, 1 / TRAIN_STEPS, schedule.steps + 1)[:-1], schedule.shift)
            )
        case Solver.DPMPP:
            ramp = 1 - np.linspace(1, 1 / TRAIN_STEPS, schedule.steps + 1)
            return _multistep_levels(shift_sigmas(ramp, schedule.shift)[:0:-1])
        case _:
            sigmas = shift_sigmas(np.linspace(1, 0, schedule.steps + 1)[:-1], schedule.shift).astype(np.float32)
            return _listed_levels(schedule, tuple((sigmas * TRAIN_STEPS).tolist()))


def shift_sigmas(sigmas: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    """Spend more steps at high noise: s*u / (1 + (s-1)*u)."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def build_table(shift: float) -> NDArray[np.float32]:
    """Sigmas of the 1000 training timesteps under `shift`, largest first; 0 is not among them."""
    return shift_sigmas(np.linspace(1, 0, TRAIN_STEPS + 1)[:-1], shift).astype(np.float32)


def warp_timesteps(timesteps: tuple[float, ...], shift: float) -> tuple[float, ...]:
    """Replace each entry v by the timestep at place 1000 - v of the shifted table.

    Raises:
        ValueError: An entry is not an integer.
    """
    if any(v != int(v) for v in timesteps):
        raise ValueError(f"timesteps holds {list(timesteps)}; a warped list must hold integers")
    table = np.append(build_table(shift), np.float32(0)) * np.float32(TRAIN_STEPS)
    return tuple(float(table[TRAIN_STEPS - int(v)]) for v in timesteps)


def find_nearest_sigma(timestep: float, table: NDArray[np.float32]) -> float:
    """Sigma of the table entry nearest to `timestep`; the first one when two are equally near."""
    distances = np.abs(table * np.float32(TRAIN_STEPS) - np.float32(timestep))
    return float(table[int(distances.argmin())])


def _listed_levels(schedule: Schedule, timesteps: tuple[float, ...]) -> NoiseLevels:
    if schedule.solver is Solver.X0_RENOISE:
        table = build_table(schedule.shift)
        sigmas = [find_nearest_sigma(t, table) for t in timesteps]
    elif timesteps[-1] == 0:
        raise ValueError(f"timesteps ends in 0, which is clean already; {schedule.solver} stops there by itself")
    else:
        sigmas = [float(np.float32(t / TRAIN_STEPS)) for t in timesteps]
    if schedule.solver in {Solver.UNIPC, Solver.DPMPP}:
        sigmas[0] = _lower_first(sigmas[0])
    return NoiseLevels(sigmas=(*sigmas, 0.0), timesteps=timesteps)


def _multistep_levels(sigmas: NDArray[np.float64]) -> NoiseLevels:
    # The network is told whole timesteps: the published solvers cut the fraction off.
    lowered = [_lower_first(float(sigmas[0])), *sigmas[1:].tolist()]
    timesteps = tuple(float(int(sigma * TRAIN_STEPS)) for sigma in lowered)
    return NoiseLevels(sigmas=(*(float(np.float32(s)) for s in lowered), 0.0), timesteps=timesteps)


def _lower_first(sigma: float) -> float:
    return sigma - FIRST_SIGMA_GAP if abs(sigma - 1) < FIRST_SIGMA_GAP else sigma
