"""The coordinator: asks the fleet, and lets houses carry out what it decides.

It holds nothing that it could not be told again: engines and what runs on them by their houses, renders by the store.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from reelray.cluster.coordinator.clock import Clock
from reelray.cluster.coordinator.costs import CostTable
from reelray.cluster.coordinator.engine_roll import EngineRoll, place_of
from reelray.cluster.coordinator.houses import (
    Alarms,
    Hear,
    Houses,
    Standings,
    load_of,
    stands,
    turned_away,
)
from reelray.cluster.coordinator.messages import (
    Asked,
    Decision,
    Ended,
    EngineCame,
    EngineOffer,
    EngineWent,
    HowStands,
    Inquired,
    Joined,
    Left,
    LookedFor,
    MadeRoom,
    MakeRoom,
    Moved,
    Report,
    Run,
    Wish,
)
from reelray.proto.request import RequestId
from reelray.scheduler.fleet import decision as fleet_words
from reelray.scheduler.fleet.decision import Placed, Reason, Refused
from reelray.scheduler.fleet.fleet import Fleet
from reelray.scheduler.fleet.policy import FleetPolicy
from reelray.scheduler.fleet.ticket import EngineId

LOG = logging.getLogger("reelray.coordinator")
SERVICE_POLICY = FleetPolicy(patience_s=300.0)
TELL_S = 1.0
"""So often those who wait hear how they stand."""
LOAD_S = 2.0
"""So often houses hear how much there is to do."""
BACK_SOON_S = 1.0
"""When to ask again for an engine that was lost."""
RUN_BITS = 32


@dataclass(kw_only=True, slots=True)
class _Known:
    wish: Wish
    asked_s: float
    house: str | None
    """Who asked; None for a render of the store."""
    placed: Placed | None = None
    run: int = 0
    """Number of the decision that began it; no two have the same, of predecessors neither."""

    @property
    def deadline_s(self) -> float | None:
        """By the clock of its coordinator; None without one."""
        within_s = self.wish.within_s
        return None if within_s is None else self.asked_s + self.wish.waited_s + within_s

    def promised_wish(self, placed: Placed, now: float) -> Wish:
        """The wish with its deadline if that is to be kept, and without it else."""
        deadline_s = self.deadline_s if placed.is_promised else None
        return replace(self.wish, within_s=None if deadline_s is None else deadline_s - now)


class Coordinator:
    """Not for several threads at once.

    Args:
        costs: What work costs.
        clock: The time.
        fence: Goes along with every decision; each successor has a larger one.
        policy: The rules.
        when_looked_for: Called when the store's renders are worth a look.
    """

    def __init__(
        self,
        costs: CostTable,
        clock: Clock,
        *,
        fence: int = 0,
        policy: FleetPolicy = SERVICE_POLICY,
        when_looked_for: Callable[[], None] = lambda: None,
    ) -> None:
        self.fence = fence
        self._clock, self._when_looked_for = clock, when_looked_for
        self._fleet = Fleet(policy, now=clock.now())
        self._engines = EngineRoll(costs)
        self._houses, self._alarms = Houses(fence), Alarms(clock)
        self._known: dict[RequestId, _Known] = {}
        self._curious: set[RequestId] = set()
        """Those who wait and hear how they stand."""
        self._runs = fence << RUN_BITS
        self._standings = Standings(self._fleet)

    @property
    def engines(self) -> tuple[EngineOffer, ...]:
        """Those that take work."""
        return tuple(self._engines)

    @property
    def renders(self) -> frozenset[RequestId]:
        """Renders of the store that it knows, whether they wait or run."""
        return frozenset(name for name, known in self._known.items() if known.house is None)

    def join(self, joined: Joined, hear: Hear) -> None:
        """Let a house in; what it had said before is forgotten.

        Args:
            joined: All that it has.
            hear: Takes what is decided for it; may be called at once.
        """
        if self._houses.is_closed:
            return
        self.leave(joined.house)
        self._houses.add(joined.house, hear)
        for offer in joined.engines:
            self._engine_came(joined.house, offer)
        for run in joined.runs:
            self._adopt(joined.house, run)
        for wish in joined.waiting:
            self._ask(wish, joined.house)
        self._when_looked_for()
        self.decide()
        self._tell_loads()

    def leave(self, house: str, hear: Hear | None = None) -> None:
        """A house is gone, with its engines and all that it asked for.

        Args:
            house: Its name.
            hear: As it came; nothing happens where it has come again meanwhile.
        """
        if not self._houses.remove(house, hear):
            return
        for name in [name for name, known in self._known.items() if known.house == house]:
            self._forget(name)
        for engine_id in self._engines.of_house(house):
            self._engine_went(engine_id)
        self.decide()

    def take(self, house: str, report: Report, hear: Hear | None = None) -> None:
        """Hear what a house says; passes over what is over by now, and what was said before it came again."""
        if not self._houses.has(house, hear):
            return
        match report:
            case EngineCame(offer=offer):
                self._engine_came(house, offer)
                self._when_looked_for()
            case EngineWent(engine_id=engine_id) if self._engines.home_of(engine_id) == house:
                self._engine_went(engine_id)
            case Asked(wish=wish):
                self._ask(wish, house)
            case Left(request_id=name):
                self._forget(name)
            case LookedFor():
                self._when_looked_for()
            case HowStands(request_id=name):
                self._houses.say(house, self._standings.tell(name, self._clock.now()))
            case Inquired(wish=wish):
                self._foretell(house, wish)
            case Ended() | MadeRoom() | Moved():
                self._hear_of_run(report)
        self.decide()

    def know_renders(self, wishes: Iterable[Wish]) -> None:
        """Take on what waits in the store and was not known yet."""
        for wish in wishes:
            self._ask(wish, None)
        self.decide()

    def forget_renders(self, names: Iterable[RequestId]) -> None:
        """These wait in the store no more; those of them that run go on."""
        for name in names:
            known = self._known.get(name)
            if known is not None and known.house is None and known.placed is None:
                self._forget(name)
        self.decide()

    def decide(self) -> None:
        """Decide what can be decided now; called again when time alone asks for it."""
        if not len(self._houses):
            return
        for decision in self._fleet.next_decisions(self._clock.now()):
            self._carry_out(decision)
        self._alarms.set("decide", self._fleet.wake_s(), self.decide)
        if self._curious and "tell" not in self._alarms:
            self._alarms.set("tell", self._clock.now() + TELL_S, self._tell_all)

    def close(self) -> None:
        """Decide nothing more, whoever still speaks."""
        self._houses.close()
        self._alarms.clear()

    def _ask(self, wish: Wish, house: str | None) -> None:
        if wish.request_id not in self._known:
            asked_s = self._clock.now() - wish.waited_s
            self._known[wish.request_id] = _Known(wish=wish, asked_s=asked_s, house=house)
            self._submit(wish.request_id)

    def _submit(self, name: RequestId) -> None:
        known, now = self._known[name], self._clock.now()
        deadline_s = known.deadline_s
        ticket = self._engines.ticket(known.wish, deadline_s, known.house)
        answer = self._fleet.submit(ticket, now, waited_s=now - known.asked_s)
        if isinstance(answer, Refused) and known.house is None and deadline_s is not None:  # it is made all the same
            answer = self._fleet.submit(replace(ticket, deadline_s=None), now, waited_s=now - known.asked_s)
        if isinstance(answer, Refused):
            self._turn_away(answer)
        elif known.house is not None:
            self._curious.add(name)
            self._houses.say(known.house, stands(answer, now))

    def _engine_came(self, house: str, offer: EngineOffer) -> None:
        before = self._engines.houses_of(offer.model)
        facts = self._engines.add(house, offer)
        if facts is None:
            return
        self._fleet.engine_up(facts, self._clock.now())
        if house in before or len(before) != 1:
            return
        for name in list(self._curious):  # they ask anew, for engines of their own house only
            if self._known[name].wish.model == offer.model:
                self._fleet.cancel(name, self._clock.now())
                self._submit(name)

    def _engine_went(self, engine_id: EngineId) -> None:
        house, now = self._engines.home_of(engine_id), self._clock.now()
        model = self._engines.remove(engine_id).model
        for name, known in list(self._known.items()):
            if known.placed is not None and known.placed.engine_id == engine_id:
                self._forget(name)  # its house sees to it, and the store says what is left of a render
            elif known.placed is None and known.house == house and known.wish.model == model:
                self._fleet.cancel(name, now)
                self._turn_away(Refused(request_id=name, reason=Reason.NO_ENGINE, retry_after_s=BACK_SOON_S))
        self._fleet.engine_down(engine_id, now)

    def _adopt(self, house: str, run: Run) -> None:
        name, now = run.wish.request_id, self._clock.now()
        if name in self._known or self._engines.home_of(run.engine_id) != house:
            return
        owner, asked_s = None if run.is_render else house, now - run.wish.waited_s
        known = _Known(wish=run.wish, asked_s=asked_s, house=owner, run=run.run)
        ticket = self._engines.ticket(run.wish, known.deadline_s, None)
        known.placed = placed = place_of(run, ticket, now)
        if self._fleet.adopt(placed, ticket):
            self._known[name] = known
        else:
            LOG.warning("what runs as %s finds no place on engine %s", name, run.engine_id)

    def _hear_of_run(self, report: Ended | MadeRoom | Moved) -> None:
        name, now = report.request_id, self._clock.now()
        known = self._known.get(name)
        if known is None or known.placed is None or known.run != report.run:
            return
        placed, attempt = known.placed, known.placed.attempt
        match report:
            case Moved(remaining_s=remaining_s):
                self._fleet.report(name, attempt, remaining_s / max(placed.whole_s, 1e-9), now)
            case MadeRoom(left=left):
                self._fleet.stopped(name, attempt, left, now)
                known.placed = None
            case Ended(pace=pace):
                self._fleet.finish(name, attempt, now)
                del self._known[name]
                if pace is not None:
                    self._engines.note_pace(placed.engine_id, pace)

    def _forget(self, name: RequestId) -> None:
        self._curious.discard(name)
        if self._known.pop(name, None) is not None:
            self._fleet.cancel(name, self._clock.now())

    def _carry_out(self, decision: fleet_words.Decision) -> None:
        if isinstance(decision, Refused):
            self._turn_away(decision)
            return
        known = self._known[decision.request_id]
        self._curious.discard(decision.request_id)
        said: Decision
        if isinstance(decision, Placed):
            self._runs += 1
            known.placed, known.run = decision, self._runs
            wish = known.promised_wish(decision, self._clock.now())
            said = self._engines.begin(decision, known.run, wish, is_render=known.house is None)
        else:
            said = MakeRoom(request_id=decision.request_id, run=known.run)
        self._houses.say(self._engines.home_of(decision.engine_id), said)

    def _turn_away(self, refused: Refused) -> None:
        known = self._known.pop(refused.request_id)
        self._curious.discard(refused.request_id)
        self._houses.say(known.house, turned_away(refused, self._clock.now()))

    def _foretell(self, house: str, wish: Wish) -> None:
        now = self._clock.now()
        ticket = self._engines.ticket(wish, now + (wish.within_s or 0.0), None)
        answer = self._fleet.submit(ticket, now, is_coming=True)
        self._houses.say(house, turned_away(answer, now) if isinstance(answer, Refused) else stands(answer, now))

    def _tell_loads(self) -> None:
        for model, pressure in self._fleet.pressure().items():
            self._houses.say_to_all(load_of(model, pressure))
        self._alarms.set("loads", self._clock.now() + LOAD_S, self._tell_loads)

    def _tell_all(self) -> None:
        """Tell those who wait in front of a screen how they stand now."""
        now = self._clock.now()
        for queued in self._fleet.standings(now):
            if queued.request_id in self._curious:
                self._houses.say(self._known[queued.request_id].house, stands(queued, now))
        self.decide()
