"""What needs more than any engine has free waits for one of them; nobody else waits for it."""

import random

from reelray.scheduler.fleet.decision import Preempt, Queued
from tests.support.fleet_cases import Driver, a_fleet, a_ticket, places


def fill(fleet, seconds):
    for number, each in enumerate(seconds):
        fleet.submit(a_ticket(f"r{number}", each), 0.0)
    return fleet.next_decisions(0.0)


def test_others_begin_on_other_engines_while_a_wide_ticket_waits_for_the_one_that_is_free_first():
    fleet = a_fleet(2, 2, tail_rounds=0)
    placed = fill(fleet, (10.0, 60.0, 20.0, 30.0))
    assert {d.request_id: d.engine_id for d in placed} == {"r0": "e0", "r1": "e0", "r2": "e1", "r3": "e1"}
    fleet.submit(a_ticket("wide", {2: 10.0}), 1.0)
    for name in ("a", "b"):
        fleet.submit(a_ticket(name, 5.0), 2.0)
    assert fleet.next_decisions(2.0) == []
    fleet.finish("r0", 1, 10.0)  # e1 has two GPUs at 30 s, e0 not before 60 s
    assert places(fleet.next_decisions(10.0)) == [("a", "e0")]
    fleet.finish("r2", 1, 20.0)
    fleet.finish("a", 1, 20.0)
    assert places(fleet.next_decisions(20.0)) == [("b", "e0")]
    fleet.finish("r3", 1, 30.0)
    assert places(fleet.next_decisions(30.0)) == [("wide", "e1")]


def test_a_ticket_of_many_bytes_holds_up_nobody_who_needs_few():
    fleet = a_fleet(2, 2, gib=10.0, tail_rounds=0)
    placed = [a_ticket("big0", 50.0, gib=8.0), a_ticket("big1", 90.0, gib=8.0)]
    for ticket in placed:
        fleet.submit(ticket, 0.0)
    assert len(fleet.next_decisions(0.0)) == 2
    fleet.submit(a_ticket("big2", gib=8.0), 1.0)
    fleet.submit(a_ticket("small", gib=1.0), 1.0)
    assert places(fleet.next_decisions(1.0)) == [("small", "e1")]  # big2 waits for e0, which is free at 50 s
    fleet.finish("big0", 1, 50.0)
    assert places(fleet.next_decisions(50.0)) == [("big2", "e0")]


def test_a_promise_takes_the_engine_that_was_kept_for_a_render():
    fleet = a_fleet(2)
    fill(fleet, (10.0, 60.0))
    fleet.submit(a_ticket("wide", {2: 10.0}), 1.0)
    fleet.next_decisions(1.0)
    fleet.finish("r0", 1, 10.0)
    assert fleet.next_decisions(10.0) == []  # its GPU is kept for the wide one
    assert isinstance(fleet.submit(a_ticket("me", {2: 5.0}, interactive=True), 11.0), Queued)
    (stop,) = fleet.next_decisions(11.0)
    assert (type(stop), stop.request_id) == (Preempt, "r1")
    fleet.stopped("r1", 1, 0.5, 12.0)
    assert places(fleet.next_decisions(12.0)) == [("me", "e0")]
    fleet.finish("me", 1, 17.0)
    left = {"wide", "r1"}
    for at_s in (17.0, 50.0):
        (placed,) = fleet.next_decisions(at_s)
        left.remove(placed.request_id)
        fleet.finish(placed.request_id, placed.attempt, at_s + 1.0)


def test_a_person_who_needs_several_gpus_is_made_room_for_on_one_engine():
    fleet = a_fleet(4, 4)
    there = {d.request_id: d.engine_id for d in fill(fleet, range(100, 108))}
    assert isinstance(fleet.submit(a_ticket("me", {4: 5.0}, interactive=True), 1.0), Queued)
    stops = fleet.next_decisions(1.0)
    assert len(stops) == 4
    assert len({there[d.request_id] for d in stops}) == 1
    assert fleet.next_decisions(1.5) == []
    for stop in stops:
        fleet.stopped(stop.request_id, 1, 0.9, 2.0)
    assert places(fleet.next_decisions(2.0))[0] == ("me", there[stops[0].request_id])


def test_few_wide_tickets_leave_the_gpus_to_others_while_they_wait():
    """One in fifty needs all eight GPUs of an engine; without claims all engines empty until one has: 0.84."""
    draw, driver, work_s = random.Random(1), Driver(a_fleet(*[8] * 8, tail_rounds=0)), 0.0
    for number in range(3000):
        gpus, seconds = (8 if draw.random() < 0.02 else 1), draw.uniform(20.0, 60.0)
        work_s += gpus * seconds
        driver.submit(a_ticket(number, {gpus: seconds}))
    driver.run_until(float("inf"))
    assert work_s / (64 * driver.now) >= 0.91
