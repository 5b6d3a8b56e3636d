"""Which layouts an engine is started with: as somebody says, or as the plan finds best for 1 to N requests at once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from reelray.cluster.calibration import load_calibration
from reelray.cluster.checkpoint_loader import CheckpointLoader, describe_model
from reelray.cluster.gpu_count import runs_on_gpus
from reelray.cluster.layout_choice import describe_machine
from reelray.cluster.machine import memory_bytes
from reelray.cluster.plan_request import count_guided_steps
from reelray.proto.errors import InputError
from reelray.proto.layout import Layout, check_regroup
from reelray.scheduler.limits import COMMIT_S, EngineLimits
from reelray.scheduler.plan.job import PlanJob
from reelray.scheduler.plan.lane_layouts import LaneChoice, choose_lane_layouts
from reelray.workers.models.registry import measure_checkpoint

Others: TypeAlias = Sequence[Layout] | Literal["auto"]
"""Further layouts of the ranks of an engine; `auto` lets the plan choose them."""
AUTO: Literal["auto"] = "auto"


def find_layouts(load: object, layout: Layout | None, others: Others, *, ranks: int) -> tuple[Layout, ...]:
    """The layouts of an engine, the one of its start first.

    Args:
        load: Opens the checkpoint.
        layout: The one of the start; None leaves it to the plan, or is one rank where others are named.
        others: Further ones.
        ranks: Ranks of the engine where the plan chooses all layouts.

    Raises:
        InputError: The plan is to choose and does not know the checkpoint, or the weights are sharded.
        ResourceError: By the plan nothing fits.
        UnsupportedError: The given layout splits the layers, and the plan is to find others beside it.
    """
    if others != AUTO:
        return (layout or Layout(), *others)
    if not isinstance(load, CheckpointLoader):
        raise InputError("the plan knows nothing of this checkpoint: give a CheckpointLoader, or name the layouts")
    found = choose_lanes(load, max(1, ranks) if layout is None else layout.ranks).layouts
    if layout is None:
        return found
    layouts = (layout, *(other for other in found if other != layout))
    check_regroup(layouts)
    return layouts


def choose_lanes(load: CheckpointLoader, ranks: int) -> LaneChoice:
    """Choose for the clip that a checkpoint makes by default.

    Raises:
        InputError: The weights are sharded.
        ResourceError: By the plan nothing fits.
        CheckpointError: The folder is no checkpoint.
    """
    on_gpus = runs_on_gpus(load.device)
    entry = describe_model(load.path)
    recipe = entry.recipe
    job = PlanJob(
        facts=entry.facts,
        sizes=measure_checkpoint(load.path),
        width=recipe.defaults.width,
        height=recipe.defaults.height,
        frames=recipe.defaults.frames,
        steps=recipe.schedule.length,
        guided_steps=count_guided_steps(recipe),
        chunking=recipe.chunking,
        memory=recipe.memory,
        value_bytes=2 if on_gpus else 4,
    )
    machine = describe_machine(ranks, on_gpus=on_gpus)
    if not on_gpus:
        machine = replace(machine, memory_bytes=memory_bytes())  # processes have no share of their own
    return choose_lane_layouts(job, machine, load_calibration(), residency=load.residency)


def limits_for(layouts: Sequence[Layout]) -> EngineLimits:
    """Bounds of an engine of several ranks: as many requests at once as it has lanes."""
    least = EngineLimits().requests
    return EngineLimits(commit_s=COMMIT_S, requests=max(least, *(layout.replica for layout in layouts)))
