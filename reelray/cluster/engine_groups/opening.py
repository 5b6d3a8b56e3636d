"""Plans the engines that were asked for, and opens them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from PIL import Image

from reelray.cluster.batching_choice import choose_batching
from reelray.cluster.engine_api import Engine
from reelray.cluster.engine_groups.group import EngineGroup
from reelray.cluster.engine_groups.on_demand import OnDemandEngine
from reelray.cluster.engine_groups.options import GroupOptions
from reelray.cluster.engine_groups.shared_ray import share_ray
from reelray.cluster.engine_groups.warm_up import tiny_job, warm_up
from reelray.cluster.gateway.served_models import ServedModel
from reelray.cluster.gpu_count import runs_on_gpus
from reelray.cluster.model_catalog import ModelEntry
from reelray.cluster.render import RenderJob, RenderOptions, plan_job
from reelray.cluster.render_plan import Place, Target, place_job
from reelray.cluster.services import Services
from reelray.cluster.settings import Settings
from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import InputError
from reelray.scheduler.limits import EngineLimits


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedGroup:
    """Engines of one model that can be.

    Args:
        options: What was asked for.
        entry: The model.
        job: What it makes by default.
        target: Where each engine runs.
    """

    options: GroupOptions
    entry: ModelEntry
    job: RenderJob
    target: Target


def plan_groups(groups: Sequence[GroupOptions], services: Services) -> list[PlannedGroup]:
    """Find the models, and places for their engines; nothing is loaded.

    Raises:
        ReelrayError: There is no such model, or no such place for it.
    """
    settings = services.load_settings()
    catalog = services.open_catalog(settings)
    planned: dict[str, PlannedGroup] = {}
    for group in groups:
        entry = catalog.find(group.model)
        if entry.name in planned:
            raise InputError(f"model '{entry.name}' was named twice; each is served once")
        job, target = place_default(entry, settings, group.place)
        planned[entry.name] = PlannedGroup(options=group, entry=entry, job=job, target=target)
    return list(planned.values())


def place_default(entry: ModelEntry, settings: Settings, place: Place) -> tuple[RenderJob, Target]:
    """What a model makes by default, and where it runs that is to make it.

    Raises:
        ReelrayError: The layout is not legal, or the model cannot fit into memory.
    """
    size = entry.recipe.defaults.width, entry.recipe.defaults.height
    image = Image.new("RGB", size) if entry.recipe.task == "i2v" else None
    return place_job(plan_job(RenderOptions(prompt="any", image=image), entry), settings, place)


def shares_ray(planned: Sequence[PlannedGroup]) -> bool:
    """Whether several engines, or one that comes and goes, need one Ray that stays."""
    groups = [group.options for group in planned if group.target.engine == "ray"]
    return sum(group.count for group in groups) > 1 or not all(group.preload for group in groups)


def open_groups(
    planned: Sequence[PlannedGroup],
    services: Services,
    tell: Callable[[str], None],
    opened: ExitStack,
    known: Mapping[str, EngineDescription] | None = None,
) -> list[ServedModel]:
    """Load what is planned; each engine has made a tiny video before it takes requests.

    Args:
        planned: What to open.
        services: Open engines.
        tell: Takes lines for whoever waits.
        opened: Closes them.
        known: What engines said of themselves before a server was lost; those are not waited for.

    Raises:
        ReelrayError: An engine cannot be opened, or does not work.
    """
    if shares_ray(planned):
        targets = [
            group.target for group in planned if group.target.engine == "ray" for _ in range(group.options.count)
        ]
        services = share_ray(services, targets, opened)
    models = []
    for group in planned:
        tell(f"loading {_name(group)}")
        most = count_together(services.load_settings(), group.target) * group.options.count
        before = (known or {}).get(group.entry.name)
        model = ServedModel(group.entry, partial(_open_group, group, services), together=most, known=before)
        opened.callback(model.close)
        if before is not None:
            model.open_beside()
        models.append(model)
    return models


def count_together(settings: Settings, target: Target) -> int:
    """How many requests each lane of an engine takes at once: as many as may share a forward."""
    most = choose_batching(settings, on_gpus=runs_on_gpus(target.device)).most
    return min(most, EngineLimits().requests)


def _open_group(group: PlannedGroup, services: Services) -> Engine:
    start: Callable[[], Engine] = partial(_open_engine, group, services)
    if not group.options.preload:
        start = partial(OnDemandEngine, start, group.options.idle_s, group.entry.name)
    if group.options.count == 1:
        return start()
    with ExitStack() as opened:
        members = []
        for _ in range(group.options.count):
            members.append(ServedModel(group.entry, start))
            opened.callback(members[-1].close)
        opened.pop_all()
    return EngineGroup(members)


def _open_engine(group: PlannedGroup, services: Services) -> Engine:
    target = group.target
    engine = services.open_engine(target.engine, group.entry, target.device, target.placement, target.residency)
    try:
        warm_up(engine, tiny_job(group.entry, group.job))
    except BaseException:
        engine.close()
        raise
    return engine


def _name(group: PlannedGroup) -> str:
    return group.entry.name if group.options.count == 1 else f"{group.entry.name}, {group.options.count} engines"
