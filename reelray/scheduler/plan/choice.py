"""Chooses the fastest layout that fits, and where to decode."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from reelray.proto.layout import AXES, Layout
from reelray.proto.patching import Patching
from reelray.proto.residency import Blocks, Residency
from reelray.scheduler.plan.calibration import Calibration
from reelray.scheduler.plan.job import PlanJob
from reelray.scheduler.plan.legality import can_patch, check_layout, check_patching, list_lanes, list_patched_lanes
from reelray.scheduler.plan.machine import Link, Machine
from reelray.scheduler.plan.prediction import Prediction, predict
from reelray.scheduler.plan.residency import ANY, RESIDENCIES, ResidencyWish, residencies_for

TIE = 0.01
"""Predictions this close count as equal; the measured ones err by more."""
DEDICATION_GAIN = 0.05
"""Decode ranks of their own must raise throughput by this much: they are one more thing that can fail."""
PATCHES = (2, 4, 8)
"""More patches fill the ranks better, until they are too small to fill a GPU."""
PATCHED = ResidencyWish(blocks=Blocks.RESIDENT)
"""Weights that move would come once for every patch."""
DECODE_RANKS = (1, 2, 4)
"""More GPUs decode one picture no faster."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What was considered and what was chosen.

    Args:
        job: The clip.
        machine: The GPUs.
        chosen: The fastest that fits; None when nothing does.
        rows: Every layout with its best residency, those that fit first, then by seconds per clip; all of them
            decode as the chosen one does.
        placements: The best of each number of decode ranks, 0 first.
    """

    job: PlanJob
    machine: Machine
    chosen: Prediction | None
    rows: tuple[Prediction, ...]
    placements: tuple[Prediction, ...]


def make_plan(job: PlanJob, machine: Machine, table: Calibration) -> Plan:
    """Choose layout, residency and place of decode by predicted speed; nothing that approximates.

    Layout and residency make one clip fast; decode goes where clips per hour are most.
    """
    rows = {0: rank_layouts(job, machine, table)}
    for ranks in DECODE_RANKS:
        if 2 * ranks <= machine.gpus:
            rows[ranks] = rank_layouts(job, machine, table, decode_ranks=ranks)
    best = {ranks: choose(row for row in found if row.exact) for ranks, found in rows.items()}
    placements = tuple(row for row in best.values() if row is not None)
    chosen = choose_placement(placements)
    shown = rows[chosen.decode_ranks if chosen else 0]
    return Plan(job=job, machine=machine, chosen=chosen, rows=shown, placements=placements)


def plan_layout(
    job: PlanJob, machine: Machine, table: Calibration, layout: Layout, *, patching: Patching | None = None
) -> Plan:
    """Plan with a layout that somebody has chosen, and with patches if somebody wants them.

    Raises:
        InputError: The layout is not legal here, or not with patches.
    """
    check_layout(layout, job, machine)
    if patching is not None:
        check_patching(patching, layout, job)
    wish = ANY if patching is None else PATCHED
    row = best_residency(job, replace(machine, gpus=layout.ranks), table, layout, wish=wish, patching=patching)
    chosen = row if row.fits else None
    return Plan(job=job, machine=machine, chosen=chosen, rows=(row,), placements=() if chosen is None else (chosen,))


def plan_patched(job: PlanJob, machine: Machine, table: Calibration, patching: Patching) -> Plan:
    """Plan with patches that somebody wants, under the layout that is fastest with them.

    Raises:
        InputError: No layout of these GPUs has a place for them, or they would do nothing.
    """
    lanes = list_patched_lanes(patching, job, machine)
    rows = [best_residency(job, machine, table, lane, wish=PATCHED, patching=patching) for lane in lanes]
    chosen = choose(rows)
    placements = () if chosen is None else (chosen,)
    return Plan(job=job, machine=machine, chosen=chosen, rows=sort_rows(rows), placements=placements)


def sort_rows(rows: Iterable[Prediction]) -> tuple[Prediction, ...]:
    """Those that fit first, then by seconds per clip."""
    return tuple(sorted(rows, key=lambda row: (not row.fits, row.clip_s if row.fits else row.peak_bytes)))


def rank_layouts(
    job: PlanJob, machine: Machine, table: Calibration, *, decode_ranks: int = 0
) -> tuple[Prediction, ...]:
    """Predict every legal layout; those that fit first, then by seconds per clip.

    Over links slower than NVLink, those that could take patches are there a second time, with the number of patches
    that is fastest.
    """
    denoising = replace(machine, gpus=machine.gpus - decode_ranks)
    rows = [
        best_residency(job, machine, table, layout, decode_ranks=decode_ranks) for layout in list_lanes(job, denoising)
    ]
    if machine.link is Link.PCIE:
        rows += rank_patched(job, machine, table, decode_ranks=decode_ranks)
    return sort_rows(rows)


def rank_patched(job: PlanJob, machine: Machine, table: Calibration, *, decode_ranks: int = 0) -> Iterator[Prediction]:
    """Predict every layout that can take patches, each with the number of patches that is fastest."""
    for layout in list_lanes(job, replace(machine, gpus=machine.gpus - decode_ranks)):
        rows = [
            best_residency(job, machine, table, layout, decode_ranks=decode_ranks, wish=PATCHED, patching=patching)
            for patching in (Patching(patches=patches) for patches in PATCHES)
            if can_patch(patching, layout, job)
        ]
        if rows:
            yield min(rows, key=lambda row: (not row.fits, row.clip_s))


def best_residency(
    job: PlanJob,
    machine: Machine,
    table: Calibration,
    layout: Layout,
    *,
    decode_ranks: int = 0,
    wish: ResidencyWish = ANY,
    patching: Patching | None = None,
) -> Prediction:
    """The fastest residency that fits under a layout; the smallest when none does. The layout must have one."""
    rows = []
    for residency in residencies_for(layout, wish):
        row = predict(job, machine, table, layout, residency, decode_ranks=decode_ranks, patching=patching)
        if row.fits and residency == Residency():
            return row  # nothing is faster than weights that stay
        rows.append(row)
    return choose(rows) or min(rows, key=lambda row: row.peak_bytes)


def choose(rows: Iterable[Prediction]) -> Prediction | None:
    """The fastest clip that fits; of equals the one with the fewest moving parts, of those the most clips per hour."""
    fitting = [row for row in rows if row.fits]
    if not fitting:
        return None
    fastest = min(row.clip_s for row in fitting)
    equals = [row for row in fitting if row.clip_s <= fastest * (1 + TIE)]
    fewest = min(count_moving_parts(row) for row in equals)
    simplest = [row for row in equals if count_moving_parts(row) == fewest]
    most = max(row.clips_per_hour for row in simplest)
    busiest = [row for row in simplest if row.clips_per_hour * (1 + TIE) >= most]
    return min(busiest, key=lambda row: (row.layout.pipe, row.layout.ring, row.layout.lane))


def count_moving_parts(row: Prediction) -> tuple[int, int]:
    """What can go wrong: weights that move, then axes that are in use."""
    axes = [axis for axis in AXES if axis != "replica" and getattr(row.layout, axis) > 1]
    return (RESIDENCIES.index(row.residency), len(axes))


def choose_placement(placements: Iterable[Prediction]) -> Prediction | None:
    """Most clips per hour; decode ranks of their own must be worth it."""
    chosen: Prediction | None = None
    for row in placements:
        if chosen is None or row.clips_per_hour > chosen.clips_per_hour * (1 + DEDICATION_GAIN):
            chosen = row
    return chosen
