"""From options to a plan: finds the model, whose weights need not be here, and checks sizes as a render would."""

import re
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral

from reelray.cluster.calibration import load_calibration
from reelray.cluster.model_catalog import ModelCatalog, is_path
from reelray.cluster.render import RenderOptions, choose_fps, choose_frames, choose_recipe, choose_size
from reelray.cluster.services import Services
from reelray.proto.errors import InputError, ResourceError
from reelray.proto.layout import Layout
from reelray.proto.model_facts import ModelFacts
from reelray.proto.model_sizes import ModelSizes
from reelray.proto.patching import EXACT_STEPS, Patching
from reelray.proto.recipe import Recipe
from reelray.scheduler.plan.choice import Plan, make_plan, plan_layout, plan_patched
from reelray.scheduler.plan.explain import explain
from reelray.scheduler.plan.job import PlanJob
from reelray.scheduler.plan.lane_layouts import LaneChoice, choose_lane_layouts
from reelray.scheduler.plan.machine import Link, Machine
from reelray.workers.models.registry import describe_preset, measure_checkpoint
from reelray.workers.recipes.presets import Preset, load_presets

UNITS = {"gib": 2**30, "gb": 10**9}


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanOptions:
    """What a user may say; None means the model's default.

    Args:
        model: Name or folder; None takes the setting.
        size: Pixels, such as ``832x480``.
        frames: Pixel frames.
        steps: Denoise steps.
        guidance: Weight of guidance; 1 switches it off.
        gpus: GPUs of the machine.
        gpu_memory: Memory of each, such as ``24GiB``; None takes that of the calibration table.
        links: What joins them.
        layout: Instead of the fastest, such as ``cfg=2,ulysses=2``.
        patches: Patches of a window, where an approximation is wanted.
        exact_steps: First steps without it.
    """

    model: str | None = None
    size: str | None = None
    frames: int | None = None
    steps: int | None = None
    guidance: float | None = None
    gpus: int = 1
    gpu_memory: str | None = None
    links: str = "nvlink"
    layout: str | None = None
    patches: int | None = None
    exact_steps: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownModel:
    """What is known of a model without its weights."""

    name: str
    recipe: Recipe
    facts: ModelFacts
    sizes: ModelSizes


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRender:
    """A plan, for which model, by which table, and why.

    Args:
        model: The model.
        table: Name of the table.
        plan: The plan of one render.
        explanation: Its reasons.
        lanes: What the same GPUs are started with to serve several requests at once; None where it was not asked for,
            or nothing fits.
    """

    model: KnownModel
    table: str
    plan: Plan
    explanation: str
    lanes: LaneChoice | None = None


def plan_render(options: PlanOptions, services: Services) -> PlannedRender:
    """Plan a render.

    Raises:
        ReelrayError: The model is unknown or damaged, or an option is wrong.
    """
    settings = services.load_settings()
    model = find_model(options.model or settings.model, services.open_catalog(settings))
    table = load_calibration()
    memory = table.memory_bytes if options.gpu_memory is None else parse_memory(options.gpu_memory)
    machine = Machine(gpus=options.gpus, memory_bytes=memory, link=Link(options.links))
    job = plan_job(options, model)
    patching = read_patching(options.patches, options.exact_steps)
    if options.layout is not None:
        plan = plan_layout(job, machine, table, Layout.parse(options.layout), patching=patching)
    elif patching is not None:
        plan = plan_patched(job, machine, table, patching)
    else:
        plan = make_plan(job, machine, table)
    lanes = None
    if machine.gpus > 1 and options.layout is None and patching is None:
        with suppress(ResourceError):
            lanes = choose_lane_layouts(job, machine, table)
    return PlannedRender(model=model, table=table.name, plan=plan, explanation=explain(plan, table), lanes=lanes)


def find_model(name: str, catalog: ModelCatalog) -> KnownModel:
    """Find a checkpoint, or a preset whose weights are not here; a preset's name may leave out ``t2v``.

    Raises:
        UnknownModelError: Neither has this name.
        CheckpointError: The checkpoint is damaged.
    """
    preset = None if is_path(name) or name in catalog.names() else find_preset(name)
    if preset is not None:
        facts, sizes = describe_preset(preset)
        return KnownModel(name=preset.recipe.name, recipe=preset.recipe, facts=facts, sizes=sizes)
    entry = catalog.find(name)
    return KnownModel(name=entry.name, recipe=entry.recipe, facts=entry.facts, sizes=measure_checkpoint(entry.path))


def plan_job(options: PlanOptions, model: KnownModel) -> PlanJob:
    """Fill in the model's defaults.

    Raises:
        InputError: An option does not fit the model.
    """
    wish = RenderOptions(
        prompt="", size=options.size, frames=options.frames, steps=options.steps, guidance=options.guidance
    )
    recipe = choose_recipe(wish, model.recipe)
    width, height = choose_size(wish.size, recipe, model.facts)
    return PlanJob(
        facts=model.facts,
        sizes=model.sizes,
        width=width,
        height=height,
        frames=choose_frames(wish, recipe, model.facts, choose_fps(None, recipe)),
        steps=recipe.schedule.length,
        guided_steps=count_guided_steps(recipe),
        chunking=recipe.chunking,
        memory=recipe.memory,
    )


def count_guided_steps(recipe: Recipe) -> int:
    """Steps that need both branches; an interval of noise levels counts as if it were all of them."""
    weights = recipe.guidance.per_step or (recipe.guidance.scale,) * recipe.schedule.length
    return sum(weight != 1.0 for weight in weights)


def read_patching(patches: object, exact_steps: object) -> Patching | None:
    """What is to be approximated; None where nothing is.

    Raises:
        InputError: A value is no number, or out of range, or there are exact steps and no patches.
    """
    count, steps = _read_count("patches", patches), _read_count("exact_steps", exact_steps)
    if count is None:
        if steps is not None:
            raise InputError("exact steps without patches say nothing: every step is exact (give patches too)")
        return None
    return Patching(patches=count, exact_steps=EXACT_STEPS if steps is None else steps)


def _read_count(name: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name} is {value!r}; it must be a whole number")
    return int(value)


def parse_memory(text: str) -> int:
    """Read an amount of memory such as ``24GiB`` or ``80GB``.

    Raises:
        InputError: The text is something else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(gib|gb)", text.strip().lower())
    if found is None or float(found[1]) <= 0:
        raise InputError(f"GPU memory is '{text}'; write an amount such as 24GiB or 80GB")
    return int(float(found[1]) * UNITS[found[2]])


def find_preset(name: str) -> Preset | None:
    """A preset by its name, which may leave out ``t2v``; None when there is none."""
    return next((p for p in load_presets() if name in {p.recipe.name, p.recipe.name.replace("-t2v-", "-")}), None)
