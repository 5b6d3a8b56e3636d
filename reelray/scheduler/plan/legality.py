"""Which layouts a job may run under, and why others are refused."""

from collections.abc import Iterator

from reelray.proto.errors import InputError, ReelrayError, SizeError, UnsupportedError
from reelray.proto.layout import Layout, check_remembering_layout
from reelray.proto.patching import NO_STREAMS, Patching, check_patched_layout
from reelray.scheduler.plan.job import PlanJob
from reelray.scheduler.plan.machine import Link, Machine


def check_layout(layout: Layout, job: PlanJob, machine: Machine) -> None:
    """Refuse a layout that cannot run this job on this machine.

    Heads and tokens need not divide: the first ranks take one more, and the largest share is what counts.

    Raises:
        InputError: Too few GPUs, no link, no second branch for `cfg`, more `pipe` ranks than layers, or more
            `ulysses` ranks than heads.
        UnsupportedError: Chunks remember, and the layout splits what they do.
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
    if job.memory is not None or job.chunking.stagger is not None:
        check_remembering_layout(layout)
    shortest = min(window.tokens for window in job.windows)
    if layout.sequence > shortest:
        raise SizeError(f"layout {layout} splits the tokens over {layout.sequence} ranks; a window has {shortest}")


def check_patching(patching: Patching, layout: Layout, job: PlanJob) -> None:
    """Refuse patches that a layout has no place for, or that would approximate nothing.

    Raises:
        UnsupportedError: The layout does not split the layers alone, or the job is a stream.
        InputError: There is one patch, or every step is exact.
        SizeError: A latent frame has fewer tokens than there are patches.
    """
    check_patched_layout(layout)
    if len(job.chunks) > 1:
        raise UnsupportedError(NO_STREAMS)
    if patching.patches == 1:
        raise InputError("patches is 1; it must be at least 2")
    if patching.exact_steps >= job.steps:
        raise InputError(f"exact steps are {patching.exact_steps} of {job.steps} steps; patches would do nothing")
    places = job.facts.tokens(1, job.width, job.height)
    if patching.patches > places:
        raise SizeError(f"patches is {patching.patches}; a latent frame of this size has {places} tokens")


def can_patch(patching: Patching, layout: Layout, job: PlanJob) -> bool:
    """Whether `check_patching` would agree."""
    try:
        check_patching(patching, layout, job)
    except ReelrayError:
        return False
    return True


def list_lanes(job: PlanJob, machine: Machine) -> Iterator[Layout]:
    """Every legal layout of one lane."""
    for cfg in (1, 2):
        for pipe in range(1, machine.gpus // cfg + 1):
            for ring in range(1, machine.gpus // (cfg * pipe) + 1):
                for ulysses in range(1, machine.gpus // (cfg * pipe * ring) + 1):
                    layout = Layout(cfg=cfg, pipe=pipe, ring=ring, ulysses=ulysses)
                    if why_illegal(layout, job, machine) is None:
                        yield layout


def list_patched_lanes(patching: Patching, job: PlanJob, machine: Machine) -> list[Layout]:
    """Every legal layout of one lane that can take these patches.

    Raises:
        InputError: There is none, because of the GPUs or because of the patches.
    """
    lanes = [lane for lane in list_lanes(job, machine) if lane.pipe > 1 and lane.sequence == 1]
    if not lanes:
        raise InputError("patches flow through layers on several ranks, and no layout of these GPUs splits the layers")
    check_patching(patching, lanes[0], job)
    return lanes


def why_illegal(layout: Layout, job: PlanJob, machine: Machine) -> str | None:
    """The reason `check_layout` would give, or None."""
    try:
        check_layout(layout, job, machine)
    except ReelrayError as error:
        return error.message
    return None
