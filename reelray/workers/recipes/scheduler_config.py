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
    shift = config.get("flow_shift", config.get("shift", schedule.shift))
    try:
        return dataclasses.replace(
            schedule, solver=SOLVERS[name], shift=float(shift), prediction=PREDICTIONS[prediction]
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"scheduler_config.json: shift is {shift!r}; a number above 0 is needed") from error
