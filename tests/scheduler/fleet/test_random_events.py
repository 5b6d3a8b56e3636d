"""Whatever happens: nothing is lost, nothing runs twice, no byte and no GPU is given twice, lines are bounded."""

import random

import pytest

from reelray.scheduler.fleet.decision import Placed, Preempt, Queued
from tests.support.fleet_cases import GIB, Driver, a_fleet, a_ticket, an_engine

MOST_WAITING = 60


class Ledger:
    """Keeps its own books of a fleet's decisions, and believes none of the fleet's."""

    def __init__(self, draw, **policy):
        self.draw = draw
        self.sizes = {f"e{n}": draw.choice((1, 2, 4, 8)) for n in range(6)}
        self.fleet = a_fleet(*self.sizes.values(), gib=20.0, most_waiting=MOST_WAITING, most_attempts=1000, **policy)
        self.up = set(self.sizes)
        self.waiting, self.running, self.stopping = {}, {}, {}
        self.ended, self.attempts, self.now, self.count = set(), {}, 0.0, 0

    def submit(self):
        self.count += 1
        base = self.draw.uniform(1, 60)
        table = {g: base / g**0.9 for g in (1, 2, 4, 8) if g == 1 or self.draw.random() < 0.5}
        if self.draw.random() < 0.2:
            table.pop(1)
            table[2] = base / 2
        due = self.now + self.draw.uniform(5, 200) if self.draw.random() < 0.4 else None
        ticket = a_ticket(
            f"r{self.count}",
            table,
            tenant=self.draw.choice("abc"),
            interactive=self.draw.random() < 0.3,
            stream=self.draw.random() < 0.2,
            gib=self.draw.choice((0.5, 2, 7)),
            session=self.draw.choice((None, None, None, "s1", "s2")),
            priority=self.draw.randrange(3),
            deadline_s=due,
        )
        if isinstance(self.fleet.submit(ticket, self.now), Queued):
            self.waiting[ticket.request_id] = ticket
        else:
            self.ended.add(ticket.request_id)

    def decide(self):
        for d in self.fleet.next_decisions(self.now):
            name = d.request_id
            if isinstance(d, Placed):
                ticket = self.waiting.pop(name)  # not here: placed twice, or out of nothing
                assert d.engine_id in self.up
                assert d.gpus in ticket.seconds
                assert d.attempt == self.attempts.get(name, 0) + 1
                self.attempts[name] = d.attempt
                self.running[name] = (d, ticket)
            elif isinstance(d, Preempt):
                placed, ticket = self.running[name]
                assert name not in self.stopping
                assert (ticket.kind.value, ticket.is_interactive, d.attempt) == ("render", False, placed.attempt)
                self.stopping[name] = d
            else:
                del self.waiting[name]
                self.ended.add(name)
        self.check()

    def check(self):
        for engine in self.sizes:
            there = [(d, t) for d, t in self.running.values() if d.engine_id == engine]
            assert sum(d.gpus for d, _ in there) <= self.sizes[engine]
            assert sum(t.memory_bytes for _, t in there) <= 20 * GIB
        pressure = self.fleet.pressure()["m"]
        assert pressure.waiting == len(self.waiting)
        assert pressure.gpus == sum(self.sizes[e] for e in self.up)
        assert pressure.busy * pressure.gpus == pytest.approx(sum(d.gpus for d, _ in self.running.values()))
        assert len(self.waiting) <= MOST_WAITING + len(self.sizes) * 8  # those whose engines were lost come on top

    def take_off(self, name):
        self.stopping.pop(name, None)
        return self.running.pop(name)

    def happen(self):
        kind = self.draw.choices(("submit", "finish", "stop", "lose", "down", "up", "cancel", "report"), WEIGHTS)[0]
        names = sorted(self.running)
        if kind == "submit":
            self.submit()
        elif kind == "finish" and names:
            d, _ = self.take_off(self.draw.choice(names))
            assert self.fleet.finish(d.request_id, d.attempt, self.now)
            assert not self.fleet.finish(d.request_id, d.attempt, self.now)
            self.ended.add(d.request_id)
        elif kind == "stop" and self.stopping:
            d, ticket = self.take_off(self.draw.choice(sorted(self.stopping)))
            assert self.fleet.stopped(d.request_id, d.attempt, d.left * self.draw.random(), self.now)
            self.waiting[d.request_id] = ticket
        elif kind == "lose" and names:
            d, ticket = self.take_off(self.draw.choice(names))
            assert self.fleet.lost(d.request_id, d.attempt, d.left, self.now) is None
            self.waiting[d.request_id] = ticket
        elif kind == "down" and self.up:
            engine = self.draw.choice(sorted(self.up))
            assert self.fleet.engine_down(engine, self.now) == []
            self.up.remove(engine)
            for name in [name for name in names if self.running[name][0].engine_id == engine]:
                self.waiting[name] = self.take_off(name)[1]
        elif kind == "up" and len(self.up) < len(self.sizes):
            engine = self.draw.choice(sorted(set(self.sizes) - self.up))
            self.fleet.engine_up(an_engine(engine, self.sizes[engine], gib=20.0), self.now)
            self.up.add(engine)
        elif kind == "cancel" and self.waiting:
            name = self.draw.choice(sorted(self.waiting))
            assert self.fleet.cancel(name, self.now)
            del self.waiting[name]
            self.ended.add(name)
        elif kind == "report" and names:
            d, _ = self.running[self.draw.choice(names)]
            assert self.fleet.report(d.request_id, d.attempt, self.draw.random(), self.now)


WEIGHTS = (40, 30, 10, 4, 2, 3, 3, 8)


@pytest.mark.parametrize("routing", ["late", "counts", "turns"])
@pytest.mark.parametrize("seed", range(6))
def test_books_agree_after_every_event(seed, routing):
    from reelray.scheduler.fleet.policy import Routing

    draw = random.Random(f"{seed} {routing}")
    ledger = Ledger(draw, routing=Routing(routing), preempts=seed != 1, is_fair=seed != 2)
    for _ in range(600):
        ledger.now += draw.expovariate(2.0)
        ledger.happen()
        ledger.decide()
    everything(ledger)


def everything(ledger):
    """Bring all engines up and let all work end: every ticket has exactly one end."""
    for engine in sorted(set(ledger.sizes) - ledger.up):
        ledger.fleet.engine_up(an_engine(engine, ledger.sizes[engine], gib=20.0), ledger.now)
        ledger.up.add(engine)
    for _ in range(10_000):
        ledger.decide()
        if not ledger.running:
            break
        name = min(ledger.running)
        d, _ = ledger.take_off(name)
        ledger.now += 1.0
        assert ledger.fleet.finish(d.request_id, d.attempt, ledger.now)
        ledger.ended.add(name)
    assert (ledger.waiting, ledger.running) == ({}, {})
    assert ledger.ended == {f"r{number}" for number in range(1, ledger.count + 1)}


def test_the_driver_of_these_tests_stops_what_it_is_told_to():
    driver = Driver(a_fleet(1))
    driver.submit(a_ticket("render", 100.0))
    driver.run_until(30.0)
    driver.submit(a_ticket("me", 5.0, interactive=True))
    driver.run_until(float("inf"))
    assert driver.ends == {"me": 35.0, "render": 105.0}
