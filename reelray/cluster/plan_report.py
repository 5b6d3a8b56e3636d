"""What `reelray plan` prints."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from reelray.cluster.plan_request import PlannedRender
from reelray.scheduler.plan.explain import GIB, lane_name
from reelray.scheduler.plan.lane_layouts import LaneChoice, explain_lanes
from reelray.scheduler.plan.machine import Link
from reelray.scheduler.plan.prediction import Prediction

COLUMNS = ("layout", "weights", "ms/step", "s/clip", "GiB/GPU", "sent MB/step", "comm.", "verdict")
MOST_ROWS = 12
MB = 10**6


def describe_plan(planned: PlannedRender) -> str:
    """The plan as text: the job, the table of layouts, the choice and the reasons."""
    plan = planned.plan
    parts = [_describe_job(planned), describe_rows(plan.rows, plan.chosen)]
    if len(plan.rows) == 1:
        parts.append(describe_terms(plan.rows[0]))
    return "\n\n".join([*parts, planned.explanation])


def describe_rows(rows: Sequence[Prediction], chosen: Prediction | None) -> str:
    """Rows as a table, the fastest ones when there are many."""
    shown = list(rows[:MOST_ROWS])
    if chosen is not None and chosen not in shown:
        shown.append(chosen)
    cells = [COLUMNS, *(_cells(row, chosen) for row in shown)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    text = [_align(line, widths) for line in cells]
    if len(shown) < len(rows):
        text.append(f"and {len(rows) - len(shown)} more (--json lists all)")
    return "\n".join(text)


def describe_terms(row: Prediction) -> str:
    """Where one row's time and bytes go."""
    clip = {"text": row.text_s, "denoise": row.denoise_s, "decode": row.decode_s}
    return "\n".join(
        [
            f"ms per step: {_list(row.step.terms_ms, '.1f')}",
            f"s per clip: {_list(clip, '.2f')}",
            f"GiB on the fullest GPU: {_list({k: v / GIB for k, v in row.memory.parts.items()}, '.2f')}",
            f"GiB by stage: {_list({k: v / GIB for k, v in row.memory.stages.items()}, '.2f')}",
        ]
    )


def plan_json(planned: PlannedRender) -> dict[str, object]:
    """The plan, JSON-ready; times in seconds or milliseconds, sizes in bytes, as the names say."""
    plan, job = planned.plan, planned.plan.job
    return {
        "model": planned.model.name,
        "width": job.width,
        "height": job.height,
        "frames": job.frames,
        "steps": job.steps,
        "guided_steps": job.guided_steps,
        "chunks": len(job.chunks),
        "tokens": max(window.tokens for window in job.windows),
        "forwards": job.forwards,
        "gpus": plan.machine.gpus,
        "gpu_memory_bytes": plan.machine.memory_bytes,
        "links": str(plan.machine.link),
        "table": planned.table,
        "chosen": None if plan.chosen is None else _row_json(plan.chosen),
        "explanation": planned.explanation,
        "rows": [_row_json(row) for row in plan.rows],
        "placements": [_row_json(row) for row in plan.placements],
        "lanes": None if planned.lanes is None else _lanes_json(planned.lanes, plan.machine.gpus),
    }


def _describe_job(planned: PlannedRender) -> str:
    plan, job = planned.plan, planned.plan.job
    guided = (
        "guided" if job.guided_steps == job.steps else f"{job.guided_steps} guided" if job.guided_steps else "unguided"
    )
    tokens = max(window.tokens for window in job.windows)
    chunks = f" in {len(job.chunks)} chunks" if len(job.chunks) > 1 else ""
    link = f" joined by {plan.machine.link}" if plan.machine.gpus > 1 and plan.machine.link is not Link.NONE else ""
    gpus = "1 GPU" if plan.machine.gpus == 1 else f"{plan.machine.gpus} GPUs"
    return (
        f"{planned.model.name}: {job.width}x{job.height}, {job.frames} frames{chunks}, {job.steps} steps ({guided}); "
        f"{tokens} tokens, {job.forwards} forwards\n"
        f"{gpus} of {plan.machine.memory_bytes / GIB:.1f} GiB{link}; times as table {planned.table} has them"
    )


def _cells(row: Prediction, chosen: Prediction | None) -> tuple[str, ...]:
    return (
        _place(row),
        str(row.residency),
        f"{row.step.total_ms:.1f}",
        f"{row.clip_s:.2f}",
        f"{row.peak_bytes / GIB:.1f}",
        f"{row.step.sent_bytes / MB:.0f}",
        f"{row.communication_share:.0%}",
        f"chosen{'' if row.exact else ', approximate'}" if row == chosen else _verdict(row),
    )


def _place(row: Prediction) -> str:
    place = f"{row.layout} + {row.decode_ranks} decode" if row.decode_ranks else str(row.layout)
    return f"{row.engines} x ({place})" if row.engines > 1 else place


def _verdict(row: Prediction) -> str:
    if row.fits and row.patching is not None:
        return f"approximate, {row.patching.patches} patches"
    return "fits" if row.fits else f"needs {row.peak_bytes / GIB:.1f} of {row.memory_bytes / GIB:.1f} GiB"


def _align(line: Sequence[str], widths: Sequence[int]) -> str:
    words = (0, 1, len(line) - 1)
    cells = [f"{cell:<{widths[i]}}" if i in words else f"{cell:>{widths[i]}}" for i, cell in enumerate(line)]
    return "  ".join(cells).rstrip()


def _list(values: Mapping[str, float], form: str) -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items() if value)


def _lanes_json(lanes: LaneChoice, gpus: int) -> dict[str, object]:
    """Which layout a gang of all GPUs takes for so many requests at once."""
    return {
        "explanation": explain_lanes(lanes, gpus),
        "blocks": str(lanes.residency.blocks),
        "encoder": str(lanes.residency.encoder),
        "layouts": [str(layout) for layout in lanes.layouts],
        "requests": {count: str(lanes.row_for(count).layout) for count in range(1, gpus + 1)},
        "unguided_requests": {count: str(lanes.row_for(count, guided=False).layout) for count in range(1, gpus + 1)},
        "left_out": lanes.left_out,
        "rows": [_row_json(row) for row in lanes.rows],
    }


def _row_json(row: Prediction) -> dict[str, object]:
    return {
        "layout": str(row.layout),
        "lane": lane_name(row.layout),
        "axes": asdict(row.layout),
        "blocks": str(row.residency.blocks),
        "encoder": str(row.residency.encoder),
        "decode_ranks": row.decode_ranks,
        "engines": row.engines,
        "step_ms": row.step.total_ms,
        "terms_ms": row.step.terms_ms,
        "sent_bytes_per_step": row.step.sent_bytes,
        "communication_share": row.communication_share,
        "text_s": row.text_s,
        "denoise_s": row.denoise_s,
        "decode_s": row.decode_s,
        "clip_s": row.clip_s,
        "clips_per_hour": row.clips_per_hour,
        "peak_bytes": int(row.peak_bytes),
        "memory_bytes": {name: int(count) for name, count in row.memory.parts.items()},
        "stage_bytes": {name: int(count) for name, count in row.memory.stages.items()},
        "fits": row.fits,
        "approximate": not row.exact,
        "patches": None if row.patching is None else row.patching.patches,
        "exact_steps": None if row.patching is None else row.patching.exact_steps,
    }
