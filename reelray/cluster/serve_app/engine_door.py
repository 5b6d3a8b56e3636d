"""How a gateway finds the engine of a model, now and after every loss."""

from typing import Any

from reelray.cluster.remote_engine import EngineView
from reelray.cluster.serve_app.engine_replica import EngineCard
from reelray.proto.engine_description import EngineDescription

MOVE_S = 2.0
"""Longest wait for a replacement; the engine that is about to go has to be greeted meanwhile."""


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
        self._former: list[Any] = []
        card = self._ask()
        self.entry = card.entry
        self._view = self._look(card)

    def open(self) -> EngineView:
        """The engine that the deployment has now; waits for it."""
        self._view = self._look(self._ask())
        return self._view

    def greet(self) -> Any:
        """Tell the engine that this gateway is there; the result can be awaited and says whether the engine stays.

        Awaiting it raises if the engine is lost.
        """
        for actor in self._former:  # videos of ours may still run there
            actor.hear.remote(self._client)
        return self._view.actor.hear.remote(self._client)

    def move(self) -> EngineDescription:
        """New videos go to the engine that the deployment has now.

        Returns:
            What runs there.

        Raises:
            Exception: Whatever Serve has to say; there is none yet.
        """
        card = self._ask(MOVE_S)
        self._former = [*self._former[-1:], self._view.actor]
        self._view.move(card.actor, card.description)
        return card.description

    def bye(self) -> None:
        """Tell the engine that this gateway wants nothing any more."""
        self._view.actor.bye.remote(self._client)

    def _ask(self, within_s: float | None = None) -> EngineCard:
        card: EngineCard = self._deployment.card.remote().result(timeout_s=within_s)
        return card

    def _look(self, card: EngineCard) -> EngineView:
        return EngineView(card.actor, card.description, client=self._client)
