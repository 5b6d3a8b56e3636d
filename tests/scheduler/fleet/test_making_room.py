"""Promises hold although stopping takes time, renders keep their share, and whoever only waits is not forgotten."""

import random

import pytest

from reelray.scheduler.fleet.decision import Placed, Preempt, Queued, Reason
from tests.support.fleet_cases import Driver, a_fleet, a_ticket, places


def submit_dated(driver, count, seconds, deadline_s, **rest):
    """Names of those that were promised."""
    tickets = [a_ticket(f"d{number}", seconds, deadline_s=deadline_s, **rest) for number in range(count)]
    return [t.request_id for t in tickets if isinstance(driver.submit(t), Queued)]


@pytest.mark.parametrize(("count", "seconds", "deadline_s"), [(8, 20.0, 100.0), (200, 40.0, 1043.0), (30, 7.0, 50.0)])
def test_promises_of_one_time_are_kept_although_long_renders_hold_every_gpu(count, seconds, deadline_s):
    """The renders would run for an hour and take two seconds to stop: stopping each at the last moment is too late."""
    driver = Driver(a_fleet(4, 4), stop_s=2.0)
    for number in range(8):
        driver.submit(a_ticket(f"long{number}", 3600.0))
    driver.decide()
    promised = submit_dated(driver, count, seconds, deadline_s)
    assert len(promised) >= min(count, 6 * (deadline_s - seconds - 10.0) / seconds)
    driver.run_until(float("inf"))
    assert [name for name in promised if driver.ends[name] > deadline_s + 1e-6] == []
    assert len(driver.ends) == 8 + len(promised)


@pytest.mark.parametrize("seed", range(10))
def test_every_promise_is_kept_among_renders_that_are_slow_to_stop(seed):
    draw = random.Random(seed)
    driver, deadlines = Driver(a_fleet(8, 4, 4), stop_s=2.0), {}
    for number in range(250):
        driver.run_until(driver.now + draw.expovariate(0.4))
        if draw.random() < 0.3:
            driver.submit(a_ticket(number, draw.choice((30.0, 2000.0)), tenant=draw.choice("ab")))
            continue
        seconds = draw.choice((2.0, 20.0, 60.0))
        ticket = a_ticket(
            number,
            seconds,
            deadline_s=driver.now + seconds + draw.choice((5.0, 60.0, 900.0)),
            interactive=draw.random() < 0.3,
            tenant=draw.choice("abc"),
        )
        if isinstance(driver.submit(ticket), Queued):
            deadlines[ticket.request_id] = ticket.deadline_s
    driver.run_until(float("inf"))
    assert len(deadlines) > 100
    assert driver.refused == {}
    assert [name for name, due in deadlines.items() if driver.ends[name] > due + 1e-6] == []


@pytest.mark.parametrize("interactive", [True, False])
def test_renders_keep_their_share_of_the_gpus_whatever_is_promised(interactive):
    """More promises are wanted than the fleet can keep: a tenth of it goes on with renders."""
    driver, seconds = Driver(a_fleet(8, 8, 4)), 10.0
    for number in range(1000):
        driver.submit(a_ticket(f"r{number}", seconds))
    for number in range(3000):
        deadline_s = None if interactive else driver.now + 3600.0
        driver.submit(a_ticket(f"p{number}", seconds, interactive=interactive, deadline_s=deadline_s))
        driver.run_until(driver.now + 0.4)
    made = sum(name[0] == "r" for name in driver.ends) * seconds
    assert made >= 0.09 * 20 * driver.now
    if interactive:
        assert made <= 0.15 * 20 * driver.now


def test_all_gpus_are_promised_only_where_they_are_free_or_no_fewer_will_do():
    """Renders keep one GPU of eight; who needs all eight takes turns with them."""
    table = {1: 40.0, 8: 6.0}
    fleet = a_fleet(8)
    fleet.submit(a_ticket("render", 100.0), 0.0)
    fleet.next_decisions(0.0)
    assert fleet.submit(a_ticket("hasty", table, deadline_s=12.0), 0.0).reason is Reason.DEADLINE
    fleet.finish("render", 1, 100.0)
    assert isinstance(fleet.submit(a_ticket("in time", table, deadline_s=112.0), 100.0), Queued)
    driver = Driver(a_fleet(8), stop_s=1.0)
    for number in range(20):
        driver.submit(a_ticket(f"r{number}", 300.0))
    driver.run_until(10.0)
    for number in range(3):
        assert isinstance(driver.submit(a_ticket(f"wide{number}", {8: 6.0}, interactive=True)), Queued)
        driver.run_until(driver.now + 50.0)
    assert [driver.ends[f"wide{number}"] - driver.starts[f"wide{number}"] for number in range(3)] == [6.0] * 3
    assert driver.refused == {}


def test_free_gpus_of_one_engine_are_promised_once_however_many_come_in_one_moment():
    """Four GPUs are free, on one engine and two more elsewhere; two who need three each come before any decision."""
    fleet = a_fleet(4, 2, promise_share=1.0)
    said = [fleet.submit(a_ticket(name, {3: 50.0}, stream=True, deadline_s=10.0), 0.0) for name in "ab"]
    assert [isinstance(answer, Queued) for answer in said] == [True, False]
    assert [d.request_id for d in fleet.next_decisions(0.0)] == ["a"]


def test_deadlines_far_ahead_buy_a_tenant_no_more_than_its_turns():
    driver = Driver(a_fleet(4))
    for number in range(200):
        driver.submit(a_ticket(f"dated{number}", tenant="dated", deadline_s=10_000.0))
        driver.submit(a_ticket(f"plain{number}", tenant="plain"))
    driver.run_until(400.0)
    given = {tenant: sum(name.startswith(tenant) for name in driver.order) for tenant in ("dated", "plain")}
    assert abs(given["dated"] - given["plain"]) <= 2
    driver.run_until(float("inf"))
    assert max(at for name, at in driver.ends.items() if name.startswith("dated")) <= 10_000.0


def test_what_needs_several_gpus_stops_as_many_renders_of_one_engine():
    fleet = a_fleet(4, 4)
    fleet.submit(a_ticket("s0", session="s", interactive=True), 0.0)
    (home,) = [d.engine_id for d in fleet.next_decisions(0.0)]
    fleet.finish("s0", 1, 1.0)
    for number in range(8):
        fleet.submit(a_ticket(number, 100.0 + number), 1.0)
    there = {d.request_id: d for d in fleet.next_decisions(1.0) if d.engine_id == home}
    fleet.submit(a_ticket("s1", {3: 5.0}, session="s", interactive=True), 2.0)
    stops = fleet.next_decisions(2.0)
    longest = sorted(there, key=lambda name: -there[name].finish_s)[:3]
    assert [d.request_id for d in stops if isinstance(d, Preempt)] == longest
    for stop in stops[:2]:
        assert fleet.stopped(stop.request_id, stop.attempt, 0.9, 3.0)
        assert fleet.next_decisions(3.0) == []  # what it freed is kept for s1
    assert fleet.stopped(stops[2].request_id, stops[2].attempt, 0.9, 3.0)
    assert places(fleet.next_decisions(3.0))[0] == ("s1", home)


def test_a_promise_that_waits_for_its_engine_is_woken_for_when_it_becomes_urgent():
    fleet = a_fleet(1, urgent_s=5.0, promise_share=1.0)
    fleet.submit(a_ticket("s0", 1.0, session="s"), 0.0)
    fleet.next_decisions(0.0)
    fleet.finish("s0", 1, 1.0)
    fleet.submit(a_ticket("render", 500.0), 1.0)
    fleet.next_decisions(1.0)
    fleet.submit(a_ticket("s1", 10.0, session="s", deadline_s=113.0), 2.0)
    assert fleet.next_decisions(2.0) == []
    assert fleet.wake_s() == 95.0
    assert [type(d) for d in fleet.next_decisions(95.0)] == [Preempt]


def test_room_is_made_for_what_goes_before_a_promise_in_the_line_of_an_engine():
    fleet = a_fleet(1)
    fleet.submit(a_ticket("s0", 1.0, session="s"), 0.0)
    fleet.next_decisions(0.0)
    fleet.finish("s0", 1, 1.0)
    fleet.submit(a_ticket("render", 500.0), 1.0)
    fleet.next_decisions(1.0)
    fleet.submit(a_ticket("s1", 5.0, session="s"), 2.0)
    assert fleet.next_decisions(2.0) == []
    assert isinstance(fleet.submit(a_ticket("s2", 5.0, session="s", interactive=True), 3.0), Queued)
    (stop,) = fleet.next_decisions(3.0)
    assert (type(stop), stop.request_id) == (Preempt, "render")
    fleet.stopped("render", 1, 0.9, 4.0)
    assert places(fleet.next_decisions(4.0)) == [("s1", "e0")]


@pytest.mark.parametrize("session", [None, "s"])
def test_who_waits_in_vain_is_told_so_although_nothing_happens(session):
    fleet = a_fleet(1, patience_s=30.0)
    fleet.submit(a_ticket("home", 20.0, stream=True, interactive=True, session="s"), 0.0)
    assert [type(d) for d in fleet.next_decisions(0.0)] == [Placed]
    assert isinstance(fleet.submit(a_ticket("me", 5.0, interactive=True, session=session), 0.0), Queued)
    assert fleet.next_decisions(0.0) == []
    told = []
    while not told:  # the stream goes on past its time, and nobody reports anything
        wake_s, told = fleet.wake_s(), fleet.next_decisions(fleet.wake_s())
        assert wake_s < 40.0
    assert [(d.request_id, d.reason) for d in told] == [("me", Reason.LATE)]
    assert fleet.wake_s() is None
