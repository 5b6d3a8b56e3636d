"""Where the weights of a render are: as the user says, or as the plan finds fastest among what fits."""

from reelray.cluster.machine import memory_bytes
from reelray.proto.errors import InputError, ResourceError
from reelray.proto.layout import Layout
from reelray.proto.patching import Patching
from reelray.proto.residency import Blocks, Encoder, Residency
from reelray.scheduler.plan.calibration import Calibration
from reelray.scheduler.plan.choice import best_residency
from reelray.scheduler.plan.explain import GIB
from reelray.scheduler.plan.job import PlanJob
from reelray.scheduler.plan.machine import Machine
from reelray.scheduler.plan.prediction import Prediction, predict
from reelray.scheduler.plan.residency import ResidencyWish, residencies_for

AUTO = "auto"


def read_wish(weights: str, encoder: str) -> ResidencyWish:
    """Read what was asked for.

    Raises:
        InputError: A word is not one of those that there are.
    """
    for name, value, allowed in (("weights", weights, Blocks), ("encoder", encoder, Encoder)):
        if value not in {AUTO, *allowed}:
            raise InputError(f"{name} is {value!r}; it must be one of {', '.join([AUTO, *allowed])}")
    return ResidencyWish(
        blocks=None if weights == AUTO else Blocks(weights), encoder=None if encoder == AUTO else Encoder(encoder)
    )


def check_possible(layout: Layout, wish: ResidencyWish) -> None:
    """Refuse shares that nobody could keep the other part of.

    Raises:
        InputError: Weights are to be sharded, and every rank holds layers of its own.
    """
    if not residencies_for(layout, wish):
        where = "one rank holds all of them" if layout.lane == 1 else f"with layout {layout} each rank has its own"
        raise InputError(
            f"weights cannot be sharded: {where}; let ranks share them (--gpus 2, or a layout with cfg, ring or "
            "ulysses), or take --weights offloaded"
        )


def choose_residency(
    work: PlanJob,
    machine: Machine,
    table: Calibration,
    layout: Layout,
    wish: ResidencyWish,
    *,
    patching: Patching | None = None,
) -> tuple[Prediction, str | None]:
    """The fastest residency for a layout, and why it is not the plain one; no reason where it is or was asked for.

    Raises:
        InputError: The wish cannot be.
    """
    check_possible(layout, wish)
    row = best_residency(work, machine, table, layout, wish=wish, patching=patching)
    return row, explain_residency(row, work, machine, table, wish)


def explain_residency(
    row: Prediction, work: PlanJob, machine: Machine, table: Calibration, wish: ResidencyWish
) -> str | None:
    """Why the weights do not all stay, where the plan has chosen so."""
    if row.residency == Residency() or wish == wish.closed():
        return None
    plain = predict(work, machine, table, row.layout, Residency(), decode_ranks=row.decode_ranks, patching=row.patching)
    return (
        f"weights {row.residency}: all resident, a GPU would need {plain.peak_bytes / GIB:.1f} of "
        f"{machine.memory_bytes / GIB:.1f} GiB"
    )


def check_host(residency: Residency, work: PlanJob, layout: Layout, *, decode_ranks: int = 0) -> None:
    """Refuse to move more into host memory than there is; each rank has a process, and its own copy.

    Raises:
        ResourceError: The machine has less memory.
    """
    needed = 0.0
    if residency.blocks is Blocks.OFFLOADED:
        needed += work.facts.parameters * work.value_bytes / layout.pipe
    if residency.encoder is Encoder.RELEASED:
        needed += (work.sizes.text_encoder_parameters + work.sizes.image_encoder_parameters) * work.value_bytes
    ranks = layout.ranks + decode_ranks
    needed, has = needed * ranks, memory_bytes()
    if needed > has:
        raise ResourceError(
            f"weights {residency} need {needed / 1e9:.1f} GB of host memory on {ranks} ranks and there are "
            f"{has / 1e9:.1f} GB"
        )
