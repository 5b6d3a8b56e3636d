"""Chooses the layouts that a gang is started with, to serve one request as fast as its ranks can, or several at once.

All layouts have the ranks of the gang, so lanes are equal shares of it; none splits the layers, because ranks that are
regrouped must hold them all (`reelray.proto.layout.check_regroup`). For every number of lanes the best layout of a lane
is taken by predicted seconds per clip. More lanes get no layout where they make fewer clips an hour than fewer lanes:
the rule by which a gang is regrouped (`reelray/scheduler/lanes.py`) takes it for granted that they do not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from reelray.proto.errors import InputError, ResourceError
from reelray.proto.layout import Layout
from reelray.proto.residency import Blocks, Residency
from reelray.scheduler.plan.calibration import Calibration
from reelray.scheduler.plan.choice import TIE, choose
from reelray.scheduler.plan.job import PlanJob
from reelray.scheduler.plan.legality import list_lanes
from reelray.scheduler.plan.machine import Machine
from reelray.scheduler.plan.prediction import Prediction, predict
from reelray.scheduler.plan.residency import RESIDENCIES


@dataclass(frozen=True, kw_only=True, slots=True)
class LaneChoice:
    """The layouts of a gang.

    Args:
        residency: Where the weights are, in every layout.
        rows: The layouts, fewest lanes first. One whose branches of guidance run side by side is followed by one of as
            many lanes without, for requests without guidance.
        left_out: Numbers of lanes that got no layout, and why.
    """

    residency: Residency
    rows: tuple[Prediction, ...]
    left_out: dict[int, str]

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """What `GangSpec` takes: the first for the start, the others beside it."""
        return tuple(row.layout for row in self.rows)

    def row_for(self, requests: int, *, guided: bool = True) -> Prediction:
        """The layout that a gang has while so many requests are at work."""
        rows = [row for row in self.rows if guided or row.layout.cfg == 1] or list(self.rows)
        lanes = min(requests, max(row.layout.replica for row in rows))
        return min((row for row in rows if row.layout.replica >= lanes), key=lambda row: row.layout.replica)


def choose_lane_layouts(
    job: PlanJob, machine: Machine, table: Calibration, *, residency: Residency | None = None
) -> LaneChoice:
    """Choose for 1 to as many requests at once as there are GPUs.

    Args:
        job: One of the requests; the others are taken to be like it.
        machine: The GPUs; all of them make one gang.
        table: What their work costs.
        residency: Where the weights are; None takes the one with the fewest moving parts under which anything fits, or
            the smallest.

    Raises:
        InputError: The weights are to be sharded, or no layout without `pipe` takes all GPUs.
        ResourceError: No layout fits.
    """
    if residency is None:
        residency = _find_residency(job, machine, table)
    elif residency.blocks is Blocks.SHARDED:
        raise InputError("sharded weights belong to one layout; a gang that regroups has them resident or offloaded")
    rows: list[Prediction] = []
    left_out: dict[int, str] = {}
    most = 0.0
    for lanes in _counts(machine.gpus):
        found = list(_predict_lanes(job, machine, table, lanes, residency))
        best = choose(found)
        if best is None:
            left_out[lanes] = "does not fit" if found else "no legal layout takes all GPUs"
        elif best.clips_per_hour * (1 + TIE) < most:
            left_out[lanes] = "makes fewer clips an hour than fewer lanes"
        else:
            most = max(most, best.clips_per_hour)
            plain = choose(row for row in found if row.layout.cfg == 1)
            rows += [best] if best.layout.cfg == 1 or plain is None else [best, plain]
    if not rows:
        raise ResourceError(f"no layout of {machine.gpus} GPUs fits with weights {residency}: {left_out}")
    return LaneChoice(residency=residency, rows=tuple(rows), left_out=left_out)


def explain_lanes(choice: LaneChoice, gpus: int) -> str:
    """Which layout serves how many requests at once, and what each of them and all together gain."""
    said: list[str] = []
    before: Prediction | None = None
    for requests in range(1, gpus + 1):
        row = choice.row_for(requests)
        if row != before:
            many = "one request" if requests == 1 else f"{requests} at once"
            said.append(f"{many}: {row.layout} ({row.clip_s:.3g} s a clip, {row.clips_per_hour:.3g} an hour)")
        before = row
    text = "; ".join(said)
    plain = [str(row.layout) for row in choice.rows if row not in {choice.row_for(n) for n in range(1, gpus + 1)}]
    more = f"; without guidance {', '.join(plain)}" if plain else ""
    out = "".join(f"; {lanes} lane{'s' * (lanes > 1)}: {why}" for lanes, why in choice.left_out.items())
    return f"A gang of {gpus} that is regrouped as requests come and go: {text}{more}{out}."


def _counts(gpus: int) -> Iterator[int]:
    return (lanes for lanes in range(1, gpus + 1) if gpus % lanes == 0)


def _find_residency(job: PlanJob, machine: Machine, table: Calibration) -> Residency:
    possible = [residency for residency in RESIDENCIES if residency.blocks is not Blocks.SHARDED]
    for residency in possible:
        if any(choose(_predict_lanes(job, machine, table, lanes, residency)) for lanes in _counts(machine.gpus)):
            return residency
    return possible[-1]


def _predict_lanes(
    job: PlanJob, machine: Machine, table: Calibration, lanes: int, residency: Residency
) -> Iterator[Prediction]:
    """Predict every layout of so many lanes over all GPUs."""
    ranks = machine.gpus // lanes
    for lane in list_lanes(job, replace(machine, gpus=ranks)):
        if lane.ranks == ranks and lane.pipe == 1:
            yield predict(job, machine, table, replace(lane, replica=lanes), residency)
