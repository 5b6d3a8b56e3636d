"""Which engines there are, whose they are, and what work costs on them."""

from collections.abc import Iterator
from dataclasses import replace

from reelray.cluster.coordinator.costs import CostTable
from reelray.cluster.coordinator.messages import Begin, EngineOffer, Run, Wish
from reelray.scheduler.fleet.decision import Placed
from reelray.scheduler.fleet.engine_state import EngineFacts
from reelray.scheduler.fleet.ticket import EngineId, TenantId, Ticket


class EngineRoll:
    """The engines of all houses.

    Args:
        costs: What work costs.
    """

    def __init__(self, costs: CostTable) -> None:
        self._costs = costs
        self._offers: dict[EngineId, EngineOffer] = {}
        self._homes: dict[EngineId, str] = {}

    def __contains__(self, engine_id: EngineId) -> bool:
        return engine_id in self._offers

    def __iter__(self) -> Iterator[EngineOffer]:
        return iter(self._offers.values())

    def add(self, house: str, offer: EngineOffer) -> EngineFacts | None:
        """Know an engine; gives its facts if it is new."""
        is_new = offer.engine_id not in self._offers
        self._offers[offer.engine_id] = offer
        if not is_new:
            return None
        self._homes[offer.engine_id] = house
        return EngineFacts(
            engine_id=offer.engine_id,
            model=offer.model,
            gpus=offer.layout.ranks * offer.together,
            memory_bytes=self._costs.memory_bytes(offer) * offer.together,
        )

    def remove(self, engine_id: EngineId) -> EngineOffer:
        """Forget an engine."""
        del self._homes[engine_id]
        return self._offers.pop(engine_id)

    def home_of(self, engine_id: EngineId) -> str | None:
        """Whose it is."""
        return self._homes.get(engine_id)

    def of_house(self, house: str) -> list[EngineId]:
        """Engines of a house."""
        return [name for name, home in self._homes.items() if home == house]

    def houses_of(self, model: str) -> set[str]:
        """Houses that have a model."""
        return {self._homes[offer.engine_id] for offer in self if offer.model == model}

    def begin(self, placed: Placed, run: int, wish: Wish, *, is_render: bool) -> Begin:
        """What a house is told that is to begin something.

        Args:
            placed: Where, and how much of it is left.
            run: Number of this decision.
            wish: What is wanted.
            is_render: Whether the house has to be told that, too.
        """
        work_s = 0.0
        if wish.clip is not None:
            cost = self._costs.cost(replace(self._offers[placed.engine_id], pace=1.0), wish.clip)
            work_s = cost.seconds.get(placed.gpus, 0.0) * wish.left * placed.left
        return Begin(
            request_id=placed.request_id,
            engine_id=placed.engine_id,
            gpus=placed.gpus,
            run=run,
            work_s=work_s,
            left=placed.left,
            render=wish if is_render else None,  # with what is left of its promise: a successor hears it from the house
        )

    def note_pace(self, engine_id: EngineId, pace: float) -> None:
        """Predict its work by what was measured."""
        if engine_id in self._offers:
            self._offers[engine_id] = replace(self._offers[engine_id], pace=pace)

    def ticket(self, wish: Wish, deadline_s: float | None, house: str | None) -> Ticket:
        """What the fleet has to know of a wish; it takes as long as on the slowest engine that may run it.

        Args:
            wish: What is wanted.
            deadline_s: On the clock of the fleet.
            house: Who asked, and carries it out on engines of its own; None for renders, which any house does.
        """
        engine = None if house is None else self._only_engine(wish.model, house)
        offers = [offer for offer in self if offer.model == wish.model and engine in {None, offer.engine_id}]
        costs = [self._costs.cost(offer, wish.clip) for offer in offers]
        slowest: dict[int, float] = {}
        for cost in costs:
            for gpus, seconds in cost.seconds.items():
                slowest[gpus] = max(slowest.get(gpus, 0.0), max(seconds, wish.lasts_s) * wish.left)
        return Ticket(
            request_id=wish.request_id,
            model=wish.model,
            seconds=slowest or {1: 1.0},
            tenant=TenantId(wish.tenant),
            kind=wish.kind,
            service=wish.service,
            priority=wish.priority,
            deadline_s=deadline_s,
            memory_bytes=max((cost.memory_bytes for cost in costs), default=0),
            engine=engine,
        )

    def _only_engine(self, model: str, house: str) -> EngineId | None:
        """Where it has to run; it need not be said where all engines of the model are at home."""
        if self.houses_of(model) <= {house}:
            return None
        own = (offer.engine_id for offer in self if offer.model == model and self._homes[offer.engine_id] == house)
        return next(own, EngineId(f"{house}/none"))


def place_of(run: Run, ticket: Ticket, now: float) -> Placed:
    """The place of what runs already, as if it had been given now."""
    return Placed(
        request_id=ticket.request_id,
        engine_id=run.engine_id,
        gpus=run.gpus,
        attempt=1,
        start_s=now,
        finish_s=now + ticket.seconds.get(run.gpus, 0.0) * run.left,
        left=run.left,
    )
