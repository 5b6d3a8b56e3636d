"""Where the parts of a client are put together; tests put others together."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # each of these is loaded when it is used, so that `--help` stays fast
    from collections.abc import Callable

    from reelray.cluster.checkpoint_loader import CheckpointLoader
    from reelray.cluster.engine_api import Engine
    from reelray.cluster.model_catalog import ModelCatalog, ModelEntry
    from reelray.cluster.settings import Settings
    from reelray.proto.placement import Placement
    from reelray.proto.residency import Residency
    from reelray.scheduler.limits import EngineLimits

EngineKind = Literal["ray", "local"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """What a client is built from.

    Args:
        load_settings: Reads the environment.
        open_catalog: Knows the checkpoints.
        open_engine: Loads a checkpoint on a device, in an embedded Ray cluster or in this process, in one rank or in
            several that share each video as the placement says, with its weights where the residency says.
    """

    load_settings: "Callable[[], Settings]"
    open_catalog: "Callable[[Settings], ModelCatalog]"
    open_engine: "Callable[[EngineKind, ModelEntry, str, Placement, Residency], Engine]"


def default_services() -> Services:
    """The real parts."""
    return Services(load_settings=_load_settings, open_catalog=_open_catalog, open_engine=_open_engine)


def _load_settings() -> "Settings":
    from reelray.cluster.settings import load_settings  # noqa: PLC0415

    return load_settings()


def _open_catalog(settings: "Settings") -> "ModelCatalog":
    from reelray.cluster.checkpoint_loader import describe_model  # noqa: PLC0415
    from reelray.cluster.model_catalog import PACKAGED, ModelCatalog  # noqa: PLC0415
    from reelray.workers.recipes.presets import presets  # noqa: PLC0415

    return ModelCatalog((*settings.model_folders, PACKAGED), presets(), describe_model)


def _as_bytes(gigabytes: float | None) -> int | None:
    return None if gigabytes is None else int(gigabytes * 1e9)


def plan_loading(
    model: "ModelEntry", device: str, placement: "Placement", residency: "Residency"
) -> "tuple[CheckpointLoader, EngineLimits]":
    """What opens a checkpoint in the process of an engine, and how much the engine takes on, by the settings."""
    from reelray.cluster.batching_choice import choose_batching  # noqa: PLC0415
    from reelray.cluster.checkpoint_loader import CheckpointLoader  # noqa: PLC0415
    from reelray.cluster.gpu_count import runs_on_gpus  # noqa: PLC0415
    from reelray.cluster.lane_choice import limits_for  # noqa: PLC0415
    from reelray.scheduler.limits import EngineLimits  # noqa: PLC0415

    settings, on_gpus = _load_settings(), runs_on_gpus(device)
    limits = EngineLimits() if placement.ranks == 1 else limits_for((placement.layout,))
    limits = replace(limits, batching=choose_batching(settings, on_gpus=on_gpus), mark_chunks=settings.mark_chunks)
    loader = CheckpointLoader(
        path=model.path.absolute(),
        device=device,
        residency=residency,
        page_bytes=_as_bytes(settings.memory_gb),
        host_bytes=_as_bytes(settings.host_memory_gb),
        preview=model.preview,
    )
    return loader, limits


def _open_engine(
    kind: EngineKind, model: "ModelEntry", device: str, placement: "Placement", residency: "Residency"
) -> "Engine":
    from reelray.cluster.gpu_count import runs_on_gpus  # noqa: PLC0415

    loader, limits = plan_loading(model, device, placement, residency)
    if kind == "local":
        return _open_local(loader, placement, limits)
    from reelray.cluster.embedded_engine import EmbeddedEngine  # noqa: PLC0415  pulls in ray

    return EmbeddedEngine(
        loader,
        limits=limits,
        gpus=placement.ranks if runs_on_gpus(device) else 0,
        layout=placement.layout,
        decode_ranks=placement.decode_ranks,
        lending=placement.lending,
    )


def _open_local(loader: "CheckpointLoader", placement: "Placement", limits: "EngineLimits") -> "Engine":
    from reelray.cluster.local_engine import LocalEngine  # noqa: PLC0415  pulls in torch
    from reelray.workers.engine.cores import share_cores  # noqa: PLC0415
    from reelray.workers.engine.gang import GangSpec  # noqa: PLC0415  pulls in torch

    if placement.ranks == 1:
        return LocalEngine.open(loader, limits=limits)
    return LocalEngine.open_gang(
        GangSpec(
            load=loader,
            layout=placement.layout,
            decode_ranks=placement.decode_ranks,
            lending=placement.lending,
            threads=share_cores(placement.ranks),
        ),
        limits=limits,
    )
