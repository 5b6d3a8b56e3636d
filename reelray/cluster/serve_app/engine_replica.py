"""An engine as a Serve deployment: an engine actor in the placement group of its replica."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any

from ray.util.placement_group import get_current_placement_group

from reelray.cluster.engine_groups.opening import place_default
from reelray.cluster.gateway.served_models import is_lost
from reelray.cluster.model_catalog import ModelEntry
from reelray.cluster.remote_engine import RemoteEngine
from reelray.cluster.serve_app.arguments import ModelArguments
from reelray.cluster.services import default_services, plan_loading
from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import EngineError, ReelrayError

IDLE_LOOK_S = 0.2
HAND_OVER_S = 6.0
"""Time for gateways to hear that an engine is about to go, and to find its replacement."""
PATIENCE_S = 30.0
"""Gateways greet every few seconds; one that was not heard for so long is gone, and nobody takes its videos."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineCard:
    """What a gateway has to know of an engine.

    Args:
        entry: Its model; gateways need no checkpoint of their own.
        description: What runs there.
        actor: Ray handle of its `EngineActor`, which gateways call directly.
    """

    entry: ModelEntry
    description: EngineDescription
    actor: Any


class EngineReplica:
    """Starts an engine and says whether it is well; requests do not pass through here.

    Serve replaces it when its leader is lost, and the placement group with it; lost ranks are the leader's to replace.

    Args:
        model: What to load.
        grace_s: How long running videos may take to end.

    Raises:
        ReelrayError: It cannot be loaded so.
    """

    async def __init__(self, model: ModelArguments, grace_s: float) -> None:  # type: ignore[misc]  # Serve awaits it
        self._grace_s, self._is_leaving = grace_s, False
        group = get_current_placement_group()
        self._entry, self._engine = await asyncio.to_thread(open_engine, model, group)

    async def card(self) -> EngineCard:
        """Where gateways find the engine.

        Raises:
            EngineError: It was lost, or is about to go.
        """
        if self._is_leaving:
            raise EngineError(f"the engine of model '{self._entry.name}' is about to end")
        await self.check_health()
        return EngineCard(entry=self._entry, description=self._engine.description, actor=self._engine.actor)

    async def check_health(self) -> None:
        """Raise if the engine is lost; Serve asks again and again, and whoever left meanwhile is noticed."""
        if await asyncio.to_thread(is_lost, self._engine):
            raise EngineError(f"the engine of model '{self._entry.name}' was lost")
        await self._ask(self._engine.actor.end_abandoned.remote(PATIENCE_S))

    async def __del__(self) -> None:
        """Hand over to a replacement, if there is one, let running videos end, then the engine; Serve awaits it."""
        self._is_leaving, actor = True, self._engine.actor
        deadline_s = time.monotonic() + self._grace_s
        with contextlib.suppress(Exception):  # it is lost, and nothing runs
            await actor.retire.remote(HAND_OVER_S)
            while await self._ask(actor.is_needed.remote(PATIENCE_S)) and time.monotonic() < deadline_s:  # noqa: ASYNC110
                await asyncio.sleep(IDLE_LOOK_S)
        await asyncio.to_thread(self._engine.close)

    async def _ask(self, answer: Any) -> Any:
        """The answer of the engine's actor, in the errors of this package."""
        found = await answer
        if isinstance(found, ReelrayError):
            raise found
        return found


def open_engine(model: ModelArguments, group: Any) -> tuple[ModelEntry, RemoteEngine]:
    """Load a model in an actor of its own.

    Args:
        model: Which, and how.
        group: Placement group with the bundles of `model`.

    Raises:
        ReelrayError: It is not there, cannot be placed so, or cannot be loaded.
    """
    services = default_services()
    settings = services.load_settings()
    entry = services.open_catalog(settings).find(model.model)
    _, target = place_default(entry, settings, model.place)
    loader, limits = plan_loading(entry, target.device, target.placement, target.residency)
    engine = RemoteEngine(
        loader,
        limits=limits,
        gpus=target.placement.ranks if model.device == "cuda" else 0,
        layout=target.placement.layout,
        decode_ranks=target.placement.decode_ranks,
        lending=target.placement.lending,
        group=group,
    )
    return entry, engine
