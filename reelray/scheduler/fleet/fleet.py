"""The fleet: takes tickets on, and gives them engines.

The driver tells it what happens (`submit`, `finish`, `stopped`, `engine_down`, ...) and asks for `next_decisions` after
that, and at `wake_s`. All times are those of the driver's clock. The cost of a decision grows with the logarithm of
what waits at most, and with the numbers of free GPUs that engines have.
"""

from collections.abc import Iterator, Mapping

from reelray.proto.errors import InputError
from reelray.proto.request import RequestId
from reelray.scheduler.fleet.admission import admit
from reelray.scheduler.fleet.decision import Decision, Placed, Queued, Reason, Refused
from reelray.scheduler.fleet.engine_state import EngineFacts, EngineState
from reelray.scheduler.fleet.entry import Entry, State
from reelray.scheduler.fleet.policy import FleetPolicy, Routing
from reelray.scheduler.fleet.pool import Pool, Pressure
from reelray.scheduler.fleet.standings import entry_of_run, list_standings
from reelray.scheduler.fleet.ticket import EngineId, SessionId, Ticket


class Fleet:
    """All engines, and all tickets that have not ended.

    Args:
        policy: The rules.
        now: The time.
    """

    def __init__(self, policy: FleetPolicy | None = None, *, now: float = 0.0) -> None:
        self._policy = policy or FleetPolicy()
        self._now_s = now
        self._pools: dict[str, Pool] = {}
        self._engines: dict[EngineId, EngineState] = {}
        self._entries: dict[RequestId, Entry] = {}
        self._sessions: dict[SessionId, EngineId] = {}
        self._turn = 0
        self._count = 0

    def submit(self, ticket: Ticket, now: float, *, waited_s: float = 0.0, is_coming: bool = False) -> Queued | Refused:
        """Take a ticket on, or refuse it at once; `next_decisions` may give it a place in the same moment.

        Args:
            ticket: What wants a place.
            now: The time.
            waited_s: Seconds that it has waited elsewhere, which count for its place in line.
            is_coming: It is submitted again in a moment; until then what it is promised is kept for it, and no more.

        Raises:
            InputError: One of this id is here already.
        """
        self._check_new(ticket)
        pool = self._pools.get(ticket.model)
        if pool is None or (ticket.engine is not None and ticket.engine not in pool.index.engines):
            return Refused(request_id=ticket.request_id, reason=Reason.NO_ENGINE)
        pool.promises.came(ticket.request_id)
        self._count += 1
        entry = Entry(ticket, self._count, now - waited_s)
        entry.pinned = self._pin(ticket, pool)
        answer = admit(entry, pool, self._policy, now)
        if is_coming and entry.is_promised:
            pool.promises.expect(entry, now)
        elif isinstance(answer, Queued):
            self._entries[ticket.request_id] = entry
            pool.wait(entry)
        return answer

    def adopt(self, placed: Placed, ticket: Ticket) -> bool:
        """Know a ticket that runs already as `placed` says, such as after a change of who drives.

        Returns:
            False where that engine is not here, or has no GPUs left for it.
        """
        self._check_new(ticket)
        engine = self._engines.get(placed.engine_id)
        if engine is None or engine.free_gpus < placed.gpus or placed.gpus not in ticket.seconds:
            return False
        self._count += 1
        entry = self._entries[ticket.request_id] = entry_of_run(placed, ticket, self._count)
        self._pools[engine.facts.model].running.begin(entry, engine, placed.gpus, placed.start_s)
        if ticket.session is not None:
            self._sessions[ticket.session] = placed.engine_id
        return True

    def standings(self, now: float) -> Iterator[Queued]:
        """How all that wait stand, in the order in which they came; see `list_standings`."""
        return list_standings(self._entries.values(), self._pools, now)

    def next_decisions(self, now: float) -> list[Decision]:
        """What can be done now; the driver carries all of it out."""
        decisions: list[Decision] = []
        self._now_s = now
        for pool in _busy(self._pools):
            for decision in pool.decide(now):
                decisions.append(decision)
                entry = self._entries[decision.request_id]
                if entry.state is State.ENDED:
                    del self._entries[decision.request_id]
                elif entry.ticket.session is not None and entry.engine_id is not None:
                    self._sessions[entry.ticket.session] = entry.engine_id
        return decisions

    def wake_s(self) -> float | None:
        """When a decision is due that no event brings about, later than the last ones; None where there is none."""
        due_s = min((pool.wake_s(self._now_s) for pool in _busy(self._pools)), default=float("inf"))
        return None if due_s == float("inf") else due_s

    def finish(self, request_id: RequestId, attempt: int, now: float) -> bool:
        """It is done; returns False for a report of an attempt that is not the current one."""
        entry = self._running(request_id, attempt)
        if entry is None:
            return False
        self._end(entry, now)
        return True

    def stopped(self, request_id: RequestId, attempt: int, left: float, now: float) -> bool:
        """It has made room and waits again, at the place of its arrival.

        Args:
            request_id: The ticket.
            attempt: Of the decision that began it.
            left: Share of the whole work that is left.
            now: The time.

        Returns:
            False for a report of an attempt that is not the current one.
        """
        entry = self._running(request_id, attempt)
        if entry is None:
            return False
        self._requeue(entry, left, now)
        return True

    def lost(self, request_id: RequestId, attempt: int, left: float, now: float) -> Refused | None:
        """It ended on an engine that goes on without it, and waits again; refused when that has happened too often."""
        entry = self._running(request_id, attempt)
        if entry is None:
            return None
        entry.losses = 1 if left < entry.left else entry.losses + 1
        if entry.losses >= self._policy.most_attempts:
            self._end(entry, now)
            return Refused(request_id=request_id, reason=Reason.LOST)
        self._requeue(entry, left, now)
        return None

    def cancel(self, request_id: RequestId, now: float) -> bool:
        """Forget a ticket; what runs is stopped by the driver. Returns whether it was here."""
        entry = self._entries.get(request_id)
        if entry is None:
            return False
        if entry.state is State.WAITING:
            self._pool(entry).leave(entry)
            entry.state = State.ENDED
            del self._entries[request_id]
        else:
            self._end(entry, now)
        return True

    def report(self, request_id: RequestId, attempt: int, left: float, now: float) -> bool:
        """A running ticket tells how much is left; its finish is predicted anew."""
        entry = self._running(request_id, attempt)
        if entry is None:
            return False
        self._pool(entry).change_finish(entry, now + left * entry.ticket.seconds[entry.gpus])
        return True

    def report_held(self, engine_id: EngineId, held_bytes: int) -> None:
        """An engine tells what its resting sessions hold."""
        engine = self._engines[engine_id]
        engine.held_bytes = held_bytes
        pool = self._pools[engine.facts.model]
        pool.touch(engine)

    def drop_session(self, session: SessionId) -> None:
        """Its memory is gone: it may go on anywhere."""
        self._sessions.pop(session, None)

    def engine_up(self, facts: EngineFacts, now: float) -> None:
        """Use an engine.

        Raises:
            InputError: It is here already.
        """
        if facts.engine_id in self._engines:
            raise InputError(f"engine {facts.engine_id} is here already")
        pool = self._pools.get(facts.model)
        if pool is None:
            pool = self._pools[facts.model] = Pool(self._policy, now)
        self._count += 1
        self._engines[facts.engine_id] = pool.engine_up(facts, self._count, now)

    def engine_down(
        self, engine_id: EngineId, now: float, left: Mapping[RequestId, float] | None = None
    ) -> list[Refused]:
        """Use an engine no more: what ran there, and waited for it, waits for others.

        Args:
            engine_id: The engine.
            now: The time.
            left: Share of the work that is left after the last commit, of tickets that ran there; 1 by default.

        Returns:
            Tickets that are given up, because too many engines were lost under them.
        """
        engine = self._engines.pop(engine_id, None)
        if engine is None:
            return []
        pool, refused = self._pools[engine.facts.model], []
        self._sessions = {name: held for name, held in self._sessions.items() if held != engine_id}
        in_line = {entry.number: entry for entry in engine.line if entry.pinned == engine_id}
        for entry in [entry for entry in in_line.values() if entry.state is State.WAITING]:
            pool.leave(entry)
            entry.pinned = None
            pool.wait(entry)
        for entry in list(engine.running.values()):
            gone = self.lost(
                entry.ticket.request_id, entry.attempt, (left or {}).get(entry.ticket.request_id, 1.0), now
            )
            if gone is not None:
                refused.append(gone)
        pool.engine_down(engine, now)
        return refused

    def pressure(self) -> dict[str, Pressure]:
        """How much each model's engines have to do."""
        return {model: pool.pressure() for model, pool in self._pools.items()}

    def _check_new(self, ticket: Ticket) -> None:
        if ticket.request_id in self._entries:
            raise InputError(f"request {ticket.request_id} is here already")

    def _pin(self, ticket: Ticket, pool: Pool) -> EngineId | None:
        if ticket.engine is not None:
            return ticket.engine
        held = None if ticket.session is None else self._sessions.get(ticket.session)
        if held is not None and (engine := pool.index.engines.get(held)) is not None and engine.could_take(ticket):
            return held
        if self._policy.routing is Routing.LATE:
            return None
        engines = {name: engine for name, engine in pool.index.engines.items() if engine.could_take(ticket)}
        self._turn += 1
        return _route(engines, self._turn if self._policy.routing is Routing.TURNS else None) if engines else None

    def _running(self, request_id: RequestId, attempt: int) -> Entry | None:
        entry = self._entries.get(request_id)
        if entry is None or entry.attempt != attempt or entry.state not in {State.RUNNING, State.STOPPING}:
            return None
        return entry

    def _requeue(self, entry: Entry, left: float, now: float) -> None:
        pool = self._pool(entry)
        pool.end(entry)
        entry.left = min(max(left, 1e-6), 1.0)
        entry.starts_now = False
        entry.measure()
        entry.pinned = None if entry.pinned not in self._engines else entry.pinned
        pool.wait(entry)
        pool.settle(entry, now)

    def _end(self, entry: Entry, now: float) -> None:
        pool = self._pool(entry)
        pool.end(entry)
        pool.settle(entry, now)
        entry.state = State.ENDED
        del self._entries[entry.ticket.request_id]

    def _pool(self, entry: Entry) -> Pool:
        return self._pools[entry.ticket.model]


def _route(engines: Mapping[EngineId, EngineState], turn: int | None) -> EngineId:
    if turn is not None:
        return list(engines)[turn % len(engines)]
    return min(engines, key=lambda name: (len(engines[name].running) + engines[name].line_count, name))


def _busy(pools: Mapping[str, Pool]) -> list[Pool]:
    """Those in which something waits; of the others nothing is to be decided."""
    return [pool for pool in pools.values() if pool.has_waiting]
