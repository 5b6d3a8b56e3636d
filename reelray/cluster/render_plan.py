"""From options to a checked job and an engine that can run it; the command line and Python share this."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from reelray.cluster.decoder_choice import check_resumed, with_preview
from reelray.cluster.engine_api import Engine
from reelray.cluster.layout_choice import choose_layout
from reelray.cluster.memory_check import check_memory
from reelray.cluster.plan_request import read_patching
from reelray.cluster.render import RenderJob, RenderOptions, new_request_id, plan_job
from reelray.cluster.render_length import choose_for_length
from reelray.cluster.residency_choice import read_wish
from reelray.cluster.services import EngineKind, Services
from reelray.proto.errors import InputError
from reelray.proto.events import Progress, Stage
from reelray.proto.layout import Layout
from reelray.proto.placement import Placement
from reelray.proto.residency import Residency

if TYPE_CHECKING:
    from reelray.cluster.settings import Settings
    from reelray.cluster.snapshot_file import SnapshotFile

ENGINES: tuple[str, ...] = get_args(EngineKind)
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a user wants a job to run; None takes the setting.

    Args:
        model: Name, or folder as text or `Path`.
        device: ``auto``, ``cpu`` or ``cuda``.
        engine: ``ray`` or ``local``.
        gpus: How many share the video, those that decode included; processes on a CPU.
        layout: How they share it, such as ``cfg=2,ulysses=2``; the plan's choice where only `gpus` is given. Where one
            of the two is given, the settings of both are set aside.
        patches: Patches of a clip on ranks that split the layers; makes it approximate.
        exact_steps: First steps that are exact all the same; the default of `Patching` where there are patches.
        weights: Where the transformer's blocks are: ``auto``, ``resident``, ``sharded`` or ``offloaded``.
        encoder: Where the encoders of text and image are: ``auto``, ``resident`` or ``released``.
        decode_ranks: How many of them do nothing but decode, or ``auto``, which None means too.
        preview_decoder: File of a preview decoder instead of the model's own; asks for previews.
    """

    model: str | Path | None = None
    device: str | None = None
    engine: EngineKind | None = None
    gpus: int | None = None
    layout: str | Layout | None = None
    patches: int | None = None
    exact_steps: int | None = None
    weights: str | None = None
    encoder: str | None = None
    decode_ranks: int | str | None = None
    preview_decoder: str | Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where a job runs.

    Args:
        engine: Kind of engine.
        device: ``auto``, ``cpu`` or ``cuda``.
        placement: Which ranks denoise, how they share the video, and which decode.
        residency: Where the weights are while they do not compute.
        reason: Why so; None where nothing was chosen that needs one.
    """

    engine: EngineKind
    device: str
    placement: Placement = field(default_factory=Placement)
    residency: Residency = field(default_factory=Residency)
    reason: str | None = None


def plan_on(options: RenderOptions, services: Services, place: Place) -> tuple[RenderJob, Target]:
    """Check everything that can be checked before a model is loaded.

    Args:
        options: What to render.
        services: Knows settings and checkpoints.
        place: Where to render it.

    Raises:
        ReelrayError: Settings, model or options are wrong, the layout is not legal, or the job cannot fit into memory.
    """
    _check_choice("engine", place.engine, ENGINES)
    _check_choice("device", place.device, DEVICES)
    settings = services.load_settings()
    catalog = services.open_catalog(settings)
    entry = choose_for_length(
        options, catalog.find(str(settings.model if place.model is None else place.model)), catalog.find
    )
    entry = with_preview(entry, place.preview_decoder)
    return place_job(plan_job(options, entry), settings, place)


def plan_resumed(file: "SnapshotFile", services: Services, place: Place) -> tuple[RenderJob, Target]:
    """The same for a stream that goes on from a snapshot, under a name of its own.

    Raises:
        ReelrayError: See `plan_on`.
    """
    _check_choice("engine", place.engine, ENGINES)
    _check_choice("device", place.device, DEVICES)
    settings = services.load_settings()
    entry = services.open_catalog(settings).find(str(file.model if place.model is None else place.model))
    entry = with_preview(entry, place.preview_decoder)
    check_resumed(file.snapshot.request.recipe, entry)
    request = replace(file.snapshot.request, request_id=new_request_id())
    return place_job(RenderJob(request=request, model=entry, fps=file.fps), settings, place)


def place_job(job: RenderJob, settings: "Settings", place: Place) -> tuple[RenderJob, Target]:
    """Choose where a job runs, as far as the user left that open.

    Raises:
        ReelrayError: The layout is not legal, or the job cannot fit into memory.
    """
    entry = job.model
    device = place.device or settings.device
    wish = read_wish(place.weights or settings.weights, place.encoder or settings.encoder)
    check_memory(job.request, entry, device=device, blocks=wish.blocks)
    gpus, layout = place.gpus, place.layout
    if gpus is None and layout is None:
        gpus, layout = settings.gpus, settings.layout or None
    patching = read_patching(place.patches, place.exact_steps)
    job = replace(job, request=replace(job.request, patching=patching))
    chosen = choose_layout(job, device, gpus=gpus, layout=layout, wish=wish, decode_ranks=place.decode_ranks)
    return job, Target(
        engine=place.engine or settings.engine,
        device=device,
        placement=Placement(layout=chosen.layout, decode_ranks=chosen.decode_ranks, lending=chosen.lending),
        residency=chosen.residency,
        reason=chosen.reason,
    )


def open_engine(job: RenderJob, target: Target, services: Services, on_progress: Callable[[Progress], None]) -> Engine:
    """Load the job's model; progress tells when it starts and when it is done."""
    request_id = job.request.request_id
    on_progress(Progress(request_id=request_id, stage=Stage.LOAD, done=0, total=1))
    engine = services.open_engine(target.engine, job.model, target.device, target.placement, target.residency)
    on_progress(Progress(request_id=request_id, stage=Stage.LOAD, done=1, total=1))
    return engine


def _check_choice(name: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
