"""Which layouts a job may run under, and why others are refused."""

from collections.abc import Iterator

from reelray.proto.errors import InputError, ReelrayError, SizeError
from reelray.proto.layout import Layout
from reelray.scheduler.plan.job import PlanJob
from reelray.scheduler.plan.machine import Link, Machine


def check_layout(layout: Layout, job: PlanJob, machine: Machine) -> None:
    """Refuse a layout that cannot run this job on this machine.

    Heads and tokens need not divide: the first ranks take one more, and the largest share is what counts.

    Raises:
        InputError: Too few GPUs, no link, no second branch for `cfg`, more `pipe` ranks than layers, or more
            `ulysses` ranks than heads.
        SizeError: The shortest window has fewer tokens than ranks that share it.
    """
    if layout.ranks > machine.gpus:
        raise InputError(f"layout {layout} needs {layout.ranks} GPUs; the machine has {machine.gpus}")
    if layout.lane > 1 and machine.link is Link.NONE:
        raise InputError(f"layout {layout} makes GPUs work together, and nothing links them; use replica")
    if layout.cfg > 1 and not job.guided_steps:
        raise InputError(f"layout {layout} splits the branches of guidance; this job runs without guidance")
    if layout.pipe > job.facts.layers:
        raise InputError(
            f"layout {layout} splits the layers over {layout.pipe} ranks; the model has {job.facts.layers}"
        )
    if layout.ulysses > job.sizes.heads:
        raise InputError(
            f"layout {layout} splits the heads over {layout.ulysses} ranks; the model has {job.sizes.heads}"
        )
    shortest = min(window.tokens for window in job.windows)
    if layout.sequence > shortest:
        raise SizeError(f"layout {layout} splits the tokens over {layout.sequence} ranks; a window has {shortest}")


def list_lanes(job: PlanJob, machine: Machine) -> Iterator[Layout]:
    """Every legal layout of one lane."""
    for cfg in (1, 2):
        for pipe in range(1, machine.gpus // cfg + 1):
            for ring in range(1, machine.gpus // (cfg * pipe) + 1):
                for ulysses in range(1, machine.gpus // (cfg * pipe * ring) + 1):
                    layout = Layout(cfg=cfg, pipe=pipe, ring=ring, ulysses=ulysses)
                    if why_illegal(layout, job, machine) is None:
                        yield layout


def why_illegal(layout: Layout, job: PlanJob, machine: Machine) -> str | None:
    """The reason `check_layout` would give, or None."""
    try:
        check_layout(layout, job, machine)
    except ReelrayError as error:
        return error.message
    return None
