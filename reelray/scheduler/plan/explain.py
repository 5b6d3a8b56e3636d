"""Says in a few sentences why a plan is what it is."""

from reelray.proto.layout import Layout
from reelray.proto.residency import Residency
from reelray.scheduler.plan.calibration import Calibration
from reelray.scheduler.plan.choice import TIE, Plan
from reelray.scheduler.plan.prediction import Prediction, predict

GIB = 2**30


def explain(plan: Plan, table: Calibration) -> str:
    """Why this layout, what came second, what did not fit, and where decode goes."""
    if plan.chosen is None:
        return _explain_nothing(plan)
    said = [
        _explain_layout(plan, plan.chosen),
        _explain_residency(plan, plan.chosen, table),
        _explain_decode(plan),
        _explain_patches(plan, plan.chosen),
    ]
    return " ".join(part for part in said if part)


def lane_name(layout: Layout) -> str:
    """The layout of one lane, without its copies."""
    return str(Layout(cfg=layout.cfg, pipe=layout.pipe, ring=layout.ring, ulysses=layout.ulysses))


def _comparable(plan: Plan) -> list[Prediction]:
    """Rows that are to be compared with the chosen one: exact ones, where it is exact or there is none."""
    exact = plan.chosen is None or plan.chosen.exact
    return [row for row in plan.rows if row.exact or not exact] or list(plan.rows)


def _explain_patches(plan: Plan, chosen: Prediction) -> str:
    if chosen.patching is not None:
        return f"It is {chosen.patching}; how far that is from the exact clip differs by model and schedule."
    faster = [row for row in plan.rows if row.patching is not None and row.fits and row.clip_s < chosen.clip_s]
    if not faster:
        return ""
    best = min(faster, key=lambda row: row.clip_s)
    assert best.patching is not None
    return (
        f"Only approximately, {lane_name(best.layout)} would make it in {_seconds(best.clip_s)} "
        f"({best.clip_s / chosen.clip_s - 1:+.1%}): ask for --layout {lane_name(best.layout)} "
        f"--patches {best.patching.patches} to have it so."
    )


def _explain_nothing(plan: Plan) -> str:
    least = min(_comparable(plan), key=lambda row: row.peak_bytes)
    stages = least.memory.stages
    stage = max(stages, key=lambda name: stages[name])
    return (
        f"Nothing fits: {lane_name(least.layout)} with weights {least.residency} needs least, "
        f"{_gib(least.peak_bytes)} of {_gib(least.memory_bytes)} GiB per GPU, while it runs {stage}. "
        "More GPUs, a smaller size or fewer frames would help."
    )


def _explain_layout(plan: Plan, chosen: Prediction) -> str:
    others = [row for row in _comparable(plan) if row.fits and row != chosen]
    if not others:
        return f"{lane_name(chosen.layout)} makes a clip in {_seconds(chosen.clip_s)}."
    second = min(others, key=lambda row: row.clip_s)
    said = f"{lane_name(chosen.layout)} makes a clip in {_seconds(chosen.clip_s)}"
    gap = second.clip_s / chosen.clip_s - 1
    if gap < TIE:
        return f"{said}; {lane_name(second.layout)} is as fast ({gap:+.1%}) and has as many moving parts or more."
    return f"{said}, the fastest that fits; second is {lane_name(second.layout)} ({gap:+.1%})."


def _explain_residency(plan: Plan, chosen: Prediction, table: Calibration) -> str:
    left_out = _explain_tight(plan)
    if chosen.residency == Residency():
        return left_out
    plain = predict(
        plan.job,
        plan.machine,
        table,
        chosen.layout,
        Residency(),
        decode_ranks=chosen.decode_ranks,
        patching=chosen.patching,
    )
    cost = chosen.clip_s / plain.clip_s - 1
    said = (
        f"Weights are {chosen.residency}: all resident, a GPU would need {_gib(plain.peak_bytes)} of "
        f"{_gib(plain.memory_bytes)} GiB; this takes {_gib(chosen.peak_bytes)} and costs {cost:.1%} of time."
    )
    return f"{said} {left_out}".rstrip()


def _explain_tight(plan: Plan) -> str:
    rows = _comparable(plan)
    tight = [row for row in rows if not row.fits]
    if not tight:
        return ""
    least = min(tight, key=lambda row: row.peak_bytes)
    return (
        f"{len(tight)} of {len(rows)} layouts cannot fit: {lane_name(least.layout)} needs "
        f"{_gib(least.peak_bytes)} GiB even with weights {least.residency}."
    )


def _explain_decode(plan: Plan) -> str:
    chosen = plan.chosen
    others = [row for row in plan.placements if chosen is None or row.decode_ranks != chosen.decode_ranks]
    if chosen is None or not others:
        return ""
    second = max(others, key=lambda row: row.clips_per_hour)
    share = chosen.decode_s / (chosen.text_s + chosen.denoise_s + chosen.decode_s)
    counts = f"{_rate(chosen)} clips an hour against {_rate(second)} {_place(second)}"
    why = f"decode is {share:.1%} of the work on these GPUs"
    alone = f" One clip alone would take {_seconds(second.clip_s)} there." if second.clip_s < chosen.clip_s else ""
    return f"Decode runs {_place(chosen)}: {counts}; {why}.{alone}"


def _place(row: Prediction) -> str:
    match row.decode_ranks:
        case 0:
            return "on the GPUs that denoise"
        case 1:
            return "on a GPU of its own"
        case ranks:
            return f"on {ranks} GPUs of its own"


def _rate(row: Prediction) -> str:
    return _short(row.clips_per_hour)


def _gib(count: float) -> str:
    return f"{count / GIB:.1f}"


def _seconds(seconds: float) -> str:
    return f"{_short(seconds)} s"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"
