"""Tenants share by weight, priorities age, the longest goes first at the end."""

import pytest

from reelray.scheduler.fleet.entry import Entry
from reelray.scheduler.fleet.fair_line import FairLine
from reelray.scheduler.fleet.policy import FleetPolicy
from tests.support.fleet_cases import Driver, a_fleet, a_ticket


def test_a_flood_delays_another_tenant_by_one_ticket_per_gpu_only():
    """All GPUs are busy with one tenant when another comes: each of its tickets waits for the next free GPU."""
    gpus, seconds = 4, 10.0
    driver = Driver(a_fleet(*[1] * gpus))
    for number in range(400):
        driver.submit(a_ticket(f"flood{number}", seconds, tenant="flood"))
    driver.run_until(25.0)
    for number in range(20):
        driver.submit(a_ticket(f"me{number}", seconds, tenant="me"))
    driver.run_until(float("inf"))
    waits = [driver.starts[f"me{number}"] - 25.0 for number in range(20)]
    assert waits[0] <= seconds
    # half of the GPUs are its own: the n-th begins after n tickets on them, and one ticket of each tenant more
    fluid = [number * seconds / (gpus / 2) for number in range(20)]
    assert max(wait - even for wait, even in zip(waits, fluid, strict=True)) <= 2 * seconds
    assert len(driver.ends) == 420


@pytest.mark.parametrize(("weights", "shares"), [({}, (1, 1, 1)), ({"a": 3.0, "b": 2.0}, (3, 2, 1))])
def test_what_tenants_are_given_follows_their_weights_whatever_the_size_of_their_tickets(weights, shares):
    driver = Driver(a_fleet(2, weights=weights))
    seconds = {"a": 3.0, "b": 17.0, "c": 8.0}
    for tenant, each in seconds.items():
        for number in range(int(6000 / each)):
            driver.submit(a_ticket(f"{tenant}{number}", each, tenant=tenant))
    driver.run_until(3000.0)
    given = {t: each * sum(name.startswith(t) for name in driver.starts) for t, each in seconds.items()}
    per_weight = [given[t] / share for t, share in zip("abc", shares, strict=True)]
    # start-time fair queueing: two differ by one ticket of each at most, over their weights
    assert max(per_weight) - min(per_weight) <= 17.0 + 8.0
    assert sum(given.values()) == pytest.approx(6000, rel=0.01)


def test_who_was_away_saves_up_no_turns():
    driver = Driver(a_fleet(1))
    for number in range(100):
        driver.submit(a_ticket(f"a{number}", 1.0, tenant="a"))
    driver.run_until(50.0)
    for number in range(20):
        driver.submit(a_ticket(f"b{number}", 1.0, tenant="b"))
    driver.run_until(70.0)
    later = driver.order[50:70]
    assert 9 <= sum(name.startswith("b") for name in later) <= 11


def test_what_was_given_while_nobody_else_waited_is_not_held_against_a_tenant():
    """Streams of tenant a have run for hours when b comes; from then on both get the same."""
    driver = Driver(a_fleet(1))
    for number in range(500):
        driver.submit(a_ticket(f"s{number}", 20.0, tenant="a", interactive=True, stream=True))
        driver.run_until(driver.now + 20.0)
    for number in range(30):
        for tenant in "ab":
            driver.submit(a_ticket(f"{tenant}{number}", tenant=tenant))
    driver.run_until(driver.now + 200.0)
    later = [name[0] for name in driver.order[500:]]
    assert abs(later.count("a") - later.count("b")) <= 1


def test_tenants_that_are_gone_are_forgotten_and_those_that_owe_are_not():
    line = FairLine(FleetPolicy())
    for number in range(5000):
        line.charge(f"tenant{number}", 0.0)  # what it was given was given back
    line.add(Entry(a_ticket("waits", tenant="other"), 1, 0.0))
    line.charge("owes", 50.0)
    for number in range(5000):
        line.charge(f"more{number}", 0.0)
    assert len(line._tenants) < 200
    line.add(Entry(a_ticket("later", tenant="owes"), 2, 0.0))
    assert line.peek().ticket.tenant == "other"


def test_a_level_of_priority_is_worth_seconds_of_waiting_and_no_more():
    driver = Driver(a_fleet(1, priority_s=60.0, tail_rounds=0))
    driver.submit(a_ticket("runs", 1000.0))
    driver.decide()
    for at, name, priority in ((0.0, "old", 0), (50.0, "urgent", 1), (61.0, "late", 1), (2.0, "second", 0)):
        driver.now = at
        driver.submit(a_ticket(name, 1.0, priority=priority))
    driver.run_until(float("inf"))
    assert driver.order == ["runs", "urgent", "old", "late", "second"]


def test_the_line_is_kept_by_arrival_while_it_is_long_and_the_longest_goes_first_at_its_end():
    driver = Driver(a_fleet(1, tail_rounds=3))
    driver.submit(a_ticket("runs", 1.0))
    driver.decide()
    for name, seconds in (("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", 4.0), ("e", 5.0)):
        driver.submit(a_ticket(name, seconds))
    driver.run_until(float("inf"))
    assert driver.order == ["runs", "a", "b", "e", "d", "c"]


def test_a_short_ticket_is_overtaken_only_by_what_came_soon_after_it():
    """Long ones keep coming and few wait at any time, so the longest goes first all the while."""
    driver = Driver(a_fleet(1, overtake_s=30.0))
    driver.submit(a_ticket("runs", 10.0))
    driver.submit(a_ticket("short", 1.0))
    for number in range(100):
        driver.submit(a_ticket(f"long{number}", 10.0))
        driver.run_until(driver.now + 10.0)
    # those of the first 30 s go before it: at 0, 10, 20 and 30 s
    assert driver.order[:6] == ["runs", "long0", "long1", "long2", "long3", "short"]


def test_the_longest_overtakes_no_higher_level_of_priority_that_came_with_it():
    driver = Driver(a_fleet(1))
    driver.submit(a_ticket("runs", 1.0))
    driver.decide()
    for name, seconds, priority in (("long", 9.0, 0), ("urgent", 1.0, 1), ("more", 2.0, 1)):
        driver.submit(a_ticket(name, seconds, priority=priority))
    driver.run_until(float("inf"))
    assert driver.order == ["runs", "urgent", "more", "long"]


def test_a_preempted_render_costs_its_tenant_only_what_it_took():
    """Tenants a and b have the same work; a is stopped again and again, and still gets its half."""
    driver = Driver(a_fleet(1))
    for number in range(40):
        for tenant in "ab":
            driver.submit(a_ticket(f"{tenant}{number}", 20.0, tenant=tenant))
    for second in range(7, 600, 25):
        driver.run_until(float(second))
        driver.submit(a_ticket(f"me{second}", 1.0, tenant="me", interactive=True, stream=True))
    driver.run_until(600.0)
    given = {t: 20.0 * sum(name[0] == t for name in driver.ends) for t in "ab"}
    assert abs(given["a"] - given["b"]) <= 40.0


def test_prediction_errors_are_charged():
    """Tickets of tenant a take four times what was predicted: b gets more of them done, not the same number."""
    driver = Driver(a_fleet(1))
    fleet, now, done = driver.fleet, 0.0, {"a": 0, "b": 0}
    for number in range(100):
        for tenant in "ab":
            fleet.submit(a_ticket(f"{tenant}{number}", 10.0, tenant=tenant), 0.0)
    while now < 1000.0:
        (placed,) = fleet.next_decisions(now)
        tenant = placed.request_id[0]
        now += 40.0 if tenant == "a" else 10.0
        fleet.finish(placed.request_id, 1, now)
        done[tenant] += 1
    assert done["b"] / done["a"] == pytest.approx(4.0, rel=0.15)
