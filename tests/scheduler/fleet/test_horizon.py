"""What running work takes until a time, against counting it; and what that leaves for promises."""

import random

import pytest

from reelray.scheduler.fleet.decision import Queued, Reason
from reelray.scheduler.fleet.entry import Entry
from reelray.scheduler.fleet.horizon import Horizon
from tests.support.fleet_cases import Driver, a_fleet, a_ticket


def counted(running, now, at_s):
    """GPU-seconds that are taken from now until then."""
    return sum(entry.gpus * max(0.0, min(entry.finish_s, at_s) - now) for entry in running)


def room_at(running, work_s, gpus, now):
    """By small steps: when what runs has left room for the work, and a GPU is free."""
    at_s, step = now, 0.01
    while gpus * (at_s - now) - counted(running, now, at_s) <= work_s + 1e-9:
        at_s += step
    return at_s


@pytest.mark.parametrize("seed", range(5))
def test_what_is_taken_is_never_counted_low_and_exactly_after_stock_was_taken(seed):
    draw, horizon, running, now = random.Random(seed), Horizon(), [], 0.0
    for number in range(1500):
        now += draw.expovariate(1.0)
        kind = draw.random()
        if kind < 0.4 or not running:
            entry = Entry(a_ticket(number), number, now)
            entry.gpus, entry.finish_s = draw.choice((1, 2, 8)), now + draw.choice((20.0, 2000.0)) * draw.random()
            horizon.add(entry)
            running.append(entry)
        elif kind < 0.7:
            horizon.remove(running.pop(draw.randrange(len(running))))
        elif kind < 0.9:
            entry, finish_s = draw.choice(running), now + 500.0 * draw.random()
            horizon.change_finish(entry, finish_s)
            assert entry.finish_s == finish_s
        else:
            horizon.take_stock()
        at_s = now + draw.choice((1.0, 30.0, 3000.0)) * draw.random()
        told = horizon.taken_s(at_s) - horizon.taken_s(now) + horizon.more_s(now)
        exact = counted(running, now, at_s)
        assert told >= exact - 1e-6
        assert told <= exact + horizon.loose_s(now) + 1e-6
        if horizon.changes == 0:
            assert told == pytest.approx(exact, abs=1e-6)
            assert horizon.left_s(now) == pytest.approx(counted(running, now, float("inf")), abs=1e-6)
            assert horizon.busy_gpus(now) == sum(entry.gpus for entry in running if entry.finish_s > now)


@pytest.mark.parametrize("seed", range(5))
def test_room_is_found_where_counting_finds_it(seed):
    draw, horizon, running = random.Random(seed), Horizon(), []
    for number in range(8):
        entry = Entry(a_ticket(number), number, 0.0)
        entry.gpus, entry.finish_s = 1, 50.0 * draw.random()
        horizon.add(entry)
        running.append(entry)
    horizon.take_stock()
    for work_s in (0.0, 1.0, 30.0, 300.0):
        for gpus in (8.0, 9.5, 20.0):
            found = horizon.room_at_s(work_s, gpus, 3.0)
            assert found == pytest.approx(room_at(running, work_s, gpus, 3.0), abs=0.03)


def test_while_all_gpus_run_for_long_nothing_begins_however_little_goes_before():
    fleet = a_fleet(1, 1, promise_share=1.0, stop_s=0.0)
    for name, seconds in (("a", 50.0), ("b", 70.0)):
        fleet.submit(a_ticket(name, seconds, stream=True, interactive=True), 0.0)
    fleet.next_decisions(0.0)
    assert fleet.submit(a_ticket("soon", 1.0, deadline_s=50.9), 0.0).reason is Reason.DEADLINE
    assert fleet.submit(a_ticket("after", 1.0, deadline_s=51.0), 0.0).start_s == 50.0


def test_long_streams_take_their_own_gpus_and_no_others():
    """Half of the GPUs stream for half an hour; the others have room for all deadlines that come."""
    draw, driver, dated = random.Random(1), Driver(a_fleet(8, 8), stop_s=1.0), {}
    for number in range(8):
        driver.submit(a_ticket(f"stream{number}", 1800.0, stream=True, interactive=True))
    for number in range(200):
        driver.submit(a_ticket(f"render{number}", 60.0))
    while driver.now < 900.0:
        driver.run_until(driver.now + draw.expovariate(0.5 * 8 / 35.0))
        ticket = a_ticket(f"dated{driver.now}", 35.0, deadline_s=driver.now + 120.0)
        assert isinstance(driver.submit(ticket), Queued)
        dated[ticket.request_id] = ticket.deadline_s
    driver.run_until(float("inf"))
    assert len(dated) > 80
    assert [name for name, due in dated.items() if driver.ends[name] > due] == []


def exact_slack(pool, now):
    """What every promise has to spare, counted from what waits and what runs; streams of an hour are among that."""
    runs = [run for engine in pool.index.engines.values() for run in engine.running.values() if run.is_promised]
    waits = sorted(waiting_in(pool), key=lambda entry: (entry.latest_s, entry.number))
    slack_s, before_s = float("inf"), 0.0
    for entry in waits:
        room_s = pool.promises.gpus * (entry.latest_s - now) - counted(runs, now, entry.latest_s)
        slack_s = min(slack_s, room_s - before_s)
        before_s += entry.work_s
    return slack_s


def waiting_in(pool):
    return [row[2] for row in pool.promises._heap if row[2] in pool.promises and not row[2].starts_now]


@pytest.mark.parametrize("seed", range(4))
def test_the_time_to_spare_is_what_counting_finds_up_to_a_tick_and_never_more(seed):
    draw, driver, seen = random.Random(seed), Driver(a_fleet(4, 4), stop_s=1.0), 0
    pool = driver.fleet._pools["m"]
    for number in range(400):
        driver.run_until(driver.now + draw.expovariate(0.4))
        if draw.random() < 0.2:
            driver.submit(a_ticket(number, draw.choice((200.0, 900.0)), stream=True, interactive=True))
        else:
            seconds = draw.choice((5.0, 20.0, 60.0))
            driver.submit(a_ticket(number, seconds, deadline_s=driver.now + seconds + draw.choice((60.0, 600.0))))
        driver.decide()
        told_s, exact_s = pool.promises.slack_s(0.0, driver.now), exact_slack(pool, driver.now)
        assert told_s <= exact_s + 1e-6
        if exact_s < float("inf") and not pool.promises.starting:
            seen += 1
            loose_s = pool.running.horizon.loose_s(driver.now) + pool.promises.gpus * 0.25
            ticks = [entry.work_s for entry in waiting_in(pool)]
            assert told_s >= exact_s - loose_s - sum(sorted(ticks)[-3:]) - 1e-6
    assert seen > 100
