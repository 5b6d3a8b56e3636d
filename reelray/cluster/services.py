"""Where the parts of a client are put together; tests put others together."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # each of these is loaded when it is used, so that `--help` stays fast
    from collections.abc import Callable
    from pathlib import Path

    from reelray.cluster.engine_api import Engine
    from reelray.cluster.model_catalog import ModelCatalog, ModelEntry
    from reelray.cluster.settings import Settings

from reelray.proto.errors import UnsupportedError

EngineKind = Literal["ray", "local"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """What a client is built from.

    Args:
        load_settings: Reads the environment.
        open_catalog: Knows the checkpoints.
        open_engine: Loads a checkpoint on a device, in an embedded Ray cluster or in this process.
    """

    load_settings: "Callable[[], Settings]"
    open_catalog: "Callable[[Settings], ModelCatalog]"
    open_engine: "Callable[[EngineKind, ModelEntry, str], Engine]"


def default_services() -> Services:
    """The real parts."""
    return Services(load_settings=_load_settings, open_catalog=_open_catalog, open_engine=_open_engine)


def _load_settings() -> "Settings":
    from reelray.cluster.settings import load_settings  # noqa: PLC0415

    return load_settings()


def _open_catalog(settings: "Settings") -> "ModelCatalog":
    from reelray.cluster.model_catalog import PACKAGED, ModelCatalog  # noqa: PLC0415

    return ModelCatalog((*settings.model_folders, PACKAGED), {}, _describe)


def _describe(path: "Path") -> "ModelEntry":
    raise UnsupportedError(f"'{path}': this build reads no checkpoints")


def _open_engine(kind: EngineKind, model: "ModelEntry", device: str) -> "Engine":
    raise UnsupportedError(f"'{model.name}': this build has no {kind} engine for {device}")
