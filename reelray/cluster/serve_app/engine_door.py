"""How a gateway finds the engine of a model, now and after every loss."""

from typing import Any

from reelray.cluster.remote_engine import EngineView
from reelray.cluster.serve_app.engine_replica import EngineCard


class EngineDoor:
    """Knows the way to one engine deployment.

    Args:
        deployment: Serve's handle of an `EngineReplica`.
        client: Name of the gateway, by which the engine knows whether it is still there.

    Raises:
        Exception: Whatever Serve has to say; the engine is not there.
    """

    def __init__(self, deployment: Any, client: str) -> None:
        self._deployment, self._client = deployment, client
        card = self._ask()
        self.entry = card.entry
        self._view = self._look(card)

    def open(self) -> EngineView:
        """The engine that the deployment has now; waits for it."""
        self._view = self._look(self._ask())
        return self._view

    def greet(self) -> Any:
        """Tell the engine that this gateway is there; the result can be awaited, and raises if the engine is lost."""
        return self._view.actor.hear.remote(self._client)

    def _ask(self) -> EngineCard:
        card: EngineCard = self._deployment.card.remote().result()
        return card

    def _look(self, card: EngineCard) -> EngineView:
        return EngineView(card.actor, card.description, client=self._client)
