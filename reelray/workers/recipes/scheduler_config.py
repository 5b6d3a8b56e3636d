"""A diffusers folder's `scheduler_config.json` as a schedule."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from reelray.proto.errors import CheckpointError
from reelray.proto.recipe import Prediction, Schedule, Solver

SOLVERS: Mapping[str, Solver] = {
    "UniPCMultistepScheduler": Solver.UNIPC,
    "DPMSolverMultistepScheduler": Solver.DPMPP,
    "FlowMatchEulerDiscreteScheduler": Solver.EULER,
    "FlowMatchLCMScheduler": Solver.LCM,
}
PREDICTIONS: Mapping[str, Prediction] = {
    "flow_prediction": Prediction.FLOW,
    "epsilon": Prediction.EPSILON,
    "sample": Prediction.X0,
    "v_prediction": Prediction.V,
}
# Where a scheduler can compute in several ways, those our solvers follow; a missing field counts as one of them.
SERVED: Mapping[str, tuple[Any, ...]] = {
    "use_flow_sigmas": (True,),
    "num_train_timesteps": (1000,),
    "solver_order": (2,),
    "solver_type": ("bh2", "midpoint"),
    "algorithm_type": ("dpmsolver++",),
    "predict_x0": (True,),
    "lower_order_final": (True,),
    "disable_corrector": ([],),
    "final_sigmas_type": ("zero",),
    "thresholding": (False,),
    "use_dynamic_shifting": (False,),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "invert_sigmas": (False,),
    "stochastic_sampling": (False,),
    "shift_terminal": (None,),
}


def adapt_schedule(schedule: Schedule, config: Mapping[str, Any]) -> Schedule:
    """Replace solver, shift and prediction by those of a diffusers scheduler.

    Args:
        schedule: Keeps its step count and step list.
        config: Content of `scheduler_config.json`; empty leaves `schedule` as it is.

    Raises:
        CheckpointError: The scheduler's class or a value is not served; the message lists those that are.
    """
    if not config:
        return schedule
    name = str(config.get("_class_name", "missing"))
    if name not in SOLVERS:
        raise CheckpointError(f"scheduler_config.json: `_class_name` is {name}; served: {', '.join(SOLVERS)}")
    prediction = str(config.get("prediction_type", "flow_prediction"))
    if prediction not in PREDICTIONS:
        raise CheckpointError(
            f"scheduler_config.json: `prediction_type` is {prediction}; served: {', '.join(PREDICTIONS)}"
        )
    for field, served in SERVED.items():
        if config.get(field, served[0]) not in served:
            allowed = " or ".join(map(str, served))
            raise CheckpointError(f"scheduler_config.json: `{field}` is {config[field]!r}; served: {allowed}")
    shift = config.get("flow_shift", config.get("shift", schedule.shift))
    try:
        return dataclasses.replace(
            schedule, solver=SOLVERS[name], shift=float(shift), prediction=PREDICTIONS[prediction]
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"scheduler_config.json: shift is {shift!r}; a number above 0 is needed") from error
