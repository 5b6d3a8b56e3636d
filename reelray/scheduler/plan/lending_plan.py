"""Predicts what ranks that only decode gain when they help to denoise."""

from collections.abc import Iterable
from dataclasses import replace

from reelray.proto.layout import Layout
from reelray.proto.placement import Lending
from reelray.proto.residency import Blocks
from reelray.scheduler.plan.calibration import Calibration
from reelray.scheduler.plan.job import PlanJob
from reelray.scheduler.plan.machine import Machine
from reelray.scheduler.plan.prediction import Prediction, predict
from reelray.scheduler.plan.step_time import FP32_BYTES

CHUNK_TENSORS = 3
"""Latents, and what a solver of second order remembers of them."""


def plan_lending(
    job: PlanJob, machine: Machine, table: Calibration, row: Prediction, lanes: Iterable[Layout]
) -> Lending | None:
    """The fastest layout of all ranks of a placement while nothing is decoded; None where it is not faster.

    Args:
        job: The clip.
        machine: The GPUs.
        table: What their work costs.
        row: The placement, with decode ranks.
        lanes: Layouts of one lane that are legal.
    """
    apart = replace(row.layout, replica=1)
    if row.residency.blocks is Blocks.SHARDED or apart.pipe > 1 or job.chunking.stagger is not None:
        return None
    ranks = apart.ranks + row.decode_ranks
    together = replace(machine, gpus=ranks)
    rows = [
        predict(job, together, table, lane, row.residency) for lane in lanes if lane.ranks == ranks and lane.pipe == 1
    ]
    faster = [found for found in rows if found.fits and found.step.total_ms < row.step.total_ms]
    if not faster:
        return None
    best = min(faster, key=lambda found: found.step.total_ms)
    frames = max(chunk.length for chunk in job.chunks)
    chunk_bytes = CHUNK_TENSORS * FP32_BYTES * job.latent_cells * job.facts.latent_channels * frames
    return Lending(
        layout=replace(best.layout, replica=1),
        apart_step_s=row.step.total_ms / 1000,
        lent_step_s=best.step.total_ms / 1000,
        switch_s=table.exchange_time(chunk_bytes, machine.link) / 1000,
    )


def with_lending(job: PlanJob, row: Prediction, lending: Lending | None) -> Prediction:
    """The placement when its decode ranks help with the first chunk, which nothing is decoded beside."""
    if lending is None:
        return row
    gained_s = job.steps * (lending.apart_step_s - lending.lent_step_s)
    return replace(row, clip_s=row.clip_s - gained_s)
