"""From options to a checked job and an engine that can run it; the command line and Python share this."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from reelray.cluster.engine_api import Engine
from reelray.cluster.memory_check import check_memory
from reelray.cluster.render import RenderJob, RenderOptions, plan_job
from reelray.cluster.services import EngineKind, Services
from reelray.proto.errors import InputError
from reelray.proto.events import Progress, Stage

ENGINES: tuple[str, ...] = get_args(EngineKind)
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where a job runs: kind of engine, and ``auto``, ``cpu`` or ``cuda``."""

    engine: EngineKind
    device: str


def plan_on(
    options: RenderOptions, services: Services, model: str | Path | None, device: str | None, engine: EngineKind | None
) -> tuple[RenderJob, Target]:
    """Check everything that can be checked before a model is loaded.

    Args:
        options: What to render.
        services: Knows settings and checkpoints.
        model: Name, or folder as text or `Path`; None takes the setting.
        device: None takes the setting.
        engine: None takes the setting.

    Raises:
        ReelrayError: Settings, model or options are wrong, or the job cannot fit into memory.
    """
    _check_choice("engine", engine, ENGINES)
    _check_choice("device", device, DEVICES)
    settings = services.load_settings()
    entry = services.open_catalog(settings).find(str(model or settings.model))
    job = plan_job(options, entry)
    target = Target(engine=engine or settings.engine, device=device or settings.device)
    check_memory(job.request, entry, device=target.device)
    return job, target


def open_engine(job: RenderJob, target: Target, services: Services, on_progress: Callable[[Progress], None]) -> Engine:
    """Load the job's model; progress tells when it starts and when it is done."""
    request_id = job.request.request_id
    on_progress(Progress(request_id=request_id, stage=Stage.LOAD, done=0, total=1))
    engine = services.open_engine(target.engine, job.model, target.device)
    on_progress(Progress(request_id=request_id, stage=Stage.LOAD, done=1, total=1))
    return engine


def _check_choice(name: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
