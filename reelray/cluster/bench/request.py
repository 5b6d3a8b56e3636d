"""From the options of `reelray bench parallel` to a case; everything wrong is said before a rank starts."""

from dataclasses import dataclass, replace
from pathlib import Path

from reelray.cluster.model_catalog import is_path
from reelray.cluster.plan_request import find_preset
from reelray.cluster.render import choose_size
from reelray.cluster.services import Services
from reelray.proto.errors import InputError
from reelray.proto.layout import Layout
from reelray.proto.recipe import Recipe
from reelray.scheduler.plan.job import PlanJob
from reelray.scheduler.plan.legality import check_layout, why_illegal
from reelray.scheduler.plan.machine import Link, Machine
from reelray.workers.bench.case import PARTS, PEERS, BenchSource, ParallelCase
from reelray.workers.models.registry import checkpoint_source, preset_source

TINY_SIZE, TINY_FRAMES = "96x64", 9
STOP_SHARE = 0.85
"""Of the time limit, after which no round begins: the last one must end, and ranks must have started."""
ENOUGH_MEMORY = 2**62
"""Bytes; whether a model fits is for the machine to say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchOptions:
    """What a user may say.

    Args:
        model: Preset or folder; None takes the setting.
        size: Pixels, such as ``832x480``.
        frames: Pixel frames.
        gpus: Ranks; on a CPU processes.
        layouts: Such as ``cfg=2,ulysses=2;ring=4``; None takes those that plans choose among.
        head_groups: Numbers of head groups to try.
        runs: Timed runs.
        warmup: Untimed runs before them, besides the one whose result is checked.
        device: ``cpu`` or ``cuda``.
        tiny: Shrink every network.
        against: Other implementations.
        parts: What to measure; empty means everything.
        links: What joins the ranks.
        limit_s: After how long everything ends.
        remembered: Latent frames before the window whose keys and values forwards attend too.
    """

    model: str | None = None
    size: str | None = None
    frames: int | None = None
    gpus: int = 4
    layouts: str | None = None
    head_groups: str = "1"
    runs: int = 5
    warmup: int = 1
    device: str = "cuda"
    tiny: bool = False
    against: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    links: str = "nvlink"
    limit_s: float = 540.0
    remembered: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRequest:
    """What the options mean.

    Args:
        name: Of the model.
        job: The window as a plan sees it, one guided step.
        case: For the ranks.
        link: What joins them.
        device: ``cpu`` or ``cuda``.
        limit_s: After how long everything ends.
    """

    name: str
    job: PlanJob
    case: ParallelCase
    link: Link
    device: str
    limit_s: float

    @property
    def title(self) -> str:
        """Model and size, for names of files."""
        job = self.job
        return f"{self.name.replace(', ', '-')}-{job.width}x{job.height}x{job.frames}"

    @property
    def ranks(self) -> int:
        """Processes to start."""
        return self.case.layouts[0].ranks


def make_request(options: BenchOptions, services: Services) -> BenchRequest:
    """Check the options.

    Raises:
        ReelrayError: The model is unknown or damaged, or an option is wrong.
    """
    if options.gpus < 2:
        raise InputError(f"gpus is {options.gpus}; layouts are compared on at least 2")
    if options.runs < 1:
        raise InputError(f"runs is {options.runs}; it must be at least 1")
    if options.warmup < 0:
        raise InputError(f"warmup is {options.warmup}; it must be at least 0")
    if options.limit_s <= 0:
        raise InputError(f"limit is {options.limit_s:g} s; it must be more than 0")
    check_memory(options)
    settings = services.load_settings()
    name, recipe, source = find_source(options.model or settings.model, services, tiny=options.tiny)
    size, frames = options.size, options.frames
    if options.tiny:
        size, frames = size or TINY_SIZE, frames or TINY_FRAMES
    width, height = choose_size(size, recipe, source.facts)
    job = PlanJob(
        facts=source.facts,
        sizes=source.sizes,
        width=width,
        height=height,
        frames=frames or recipe.defaults.frames,
        steps=1,
        guided_steps=1,
    )
    machine = Machine(gpus=options.gpus, memory_bytes=ENOUGH_MEMORY, link=Link(options.links))
    rows, columns = source.facts.latent_size(width, height)
    case = ParallelCase(
        source=source,
        latent_frames=job.latent_frames,
        rows=rows,
        columns=columns,
        layouts=choose_layouts(options.layouts, job, machine),
        head_groups=parse_numbers(options.head_groups),
        against=check_names(options.against, PEERS, "against"),
        parts=tuple(part for part in PARTS if part in check_names(options.parts or PARTS, PARTS, "measure")),
        remembered=options.remembered,
        runs=options.runs,
        warmup=options.warmup,
        stop_s=options.limit_s * STOP_SHARE,
    )
    return BenchRequest(
        name=f"{name}, tiny" if options.tiny else name,
        job=job,
        case=case,
        link=machine.link,
        device=options.device,
        limit_s=options.limit_s,
    )


def find_source(name: str, services: Services, *, tiny: bool) -> tuple[str, Recipe, BenchSource]:
    """Find a checkpoint, or a preset whose weights are not here.

    Raises:
        UnknownModelError: Neither has this name.
        CheckpointError: The checkpoint is damaged.
        InputError: A checkpoint shall be tiny.
    """
    catalog = services.open_catalog(services.load_settings())
    preset = None if is_path(name) or (name in catalog.names() and not tiny) else find_preset(name)
    if preset is not None:
        return preset.recipe.name, preset.recipe, preset_source(preset, tiny=tiny)
    entry = catalog.find(name)
    if tiny:
        raise InputError(f"--tiny shrinks a preset, and '{name}' is a checkpoint; give --model wan2.1-1.3b")
    return entry.name, entry.recipe, checkpoint_source(Path(entry.path))


def check_memory(options: BenchOptions) -> None:
    """Refuse what cannot be measured with remembered frames.

    Raises:
        InputError: The number is negative, or others are to be measured, which remember nothing.
    """
    if options.remembered < 0:
        raise InputError(f"remembered is {options.remembered}; it must be at least 0")
    if options.remembered and options.against:
        raise InputError(f"{' and '.join(options.against)} cannot attend remembered frames; leave --against out")


def choose_layouts(text: str | None, job: PlanJob, machine: Machine) -> tuple[Layout, ...]:
    """Read layouts, or take the legal ones of the usual kinds; idle ranks become replicas.

    Args:
        text: Layouts; None takes the usual ones.
        job: The window.
        machine: Says how many ranks there are.

    Raises:
        InputError: A layout is not legal, does not divide the ranks, or splits layers.
    """
    gpus = machine.gpus
    if text is None:
        half = gpus // 2
        usual = [Layout(ulysses=gpus), Layout(ring=gpus)]
        if gpus % 2 == 0:
            pair = [Layout(cfg=2, ulysses=half)]
            usual = [*pair, *usual, *([Layout(ring=2, ulysses=half)] if half > 1 else [])]
        return tuple(layout for layout in usual if why_illegal(layout, job, machine) is None)
    found: list[Layout] = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        layout = Layout.parse(part)
        if layout.pipe > 1:
            raise InputError(f"layout {layout} splits the layers, which no engine does yet; leave pipe out")
        if gpus % layout.lane:
            raise InputError(f"layout {layout} has lanes of {layout.lane} ranks, which do not divide {gpus}")
        layout = replace(layout, replica=gpus // layout.lane)
        check_layout(layout, job, machine)
        if layout.lane > 1 and layout not in found:
            found.append(layout)
    if not found:
        raise InputError(f"layouts are '{text}'; name at least one of several ranks, such as ulysses={gpus}")
    return tuple(found)


def parse_numbers(text: str) -> tuple[int, ...]:
    """Read ``1,2``.

    Raises:
        InputError: The text is something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"head groups are '{text}'; write whole numbers such as 1,2")
    return tuple(dict.fromkeys(int(part) for part in parts))


def check_names(names: tuple[str, ...], allowed: tuple[str, ...], option: str) -> tuple[str, ...]:
    """Refuse names that are not known.

    Raises:
        InputError: One is not.
    """
    for name in names:
        if name not in allowed:
            raise InputError(f"--{option} is '{name}'; allowed are {', '.join(allowed)}")
    return tuple(dict.fromkeys(names))
