"""Deadlines: those that can be kept are kept, the others refused at once."""

import random
import tracemalloc
from dataclasses import replace

import pytest

from reelray.scheduler.fleet.decision import Preempt, Queued, Reason, Refused
from reelray.scheduler.fleet.entry import Entry
from reelray.scheduler.fleet.slack import SlackTree
from tests.support.fleet_cases import Driver, a_fleet, a_ticket, an_engine, places


def test_the_earliest_start_goes_first():
    driver = Driver(a_fleet(1, promise_share=1.0))
    driver.submit(a_ticket("now"))
    driver.decide()
    for name, deadline_s in (("late", 90.0), ("soon", 40.0), ("none", None), ("mid", 60.0)):
        assert isinstance(driver.submit(a_ticket(name, deadline_s=deadline_s)), Queued)
    driver.run_until(1000.0)
    assert driver.order == ["now", "soon", "mid", "late", "none"]


def test_a_deadline_that_cannot_be_kept_is_refused_with_the_time_at_which_it_would_be_done():
    driver = Driver(a_fleet(1, promise_share=1.0, stop_s=0.0))
    for name in range(3):
        driver.submit(a_ticket(name, deadline_s=40.0))
    refused = driver.submit(a_ticket("x", deadline_s=39.0))
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.DEADLINE
    assert refused.finish_s == pytest.approx(40.0)
    assert refused.retry_after_s == pytest.approx(1.0)
    assert isinstance(driver.submit(a_ticket("y", deadline_s=40.0)), Queued)
    driver.run_until(100.0)
    assert max(driver.ends.values()) == 40.0


def test_a_newcomer_that_would_break_an_older_promise_is_refused():
    driver = Driver(a_fleet(1, promise_share=1.0, stop_s=0.0))
    driver.submit(a_ticket("runs", 2.0, deadline_s=2.0))
    driver.decide()
    driver.submit(a_ticket("old", 10.0, deadline_s=17.0))
    refused = driver.submit(a_ticket("new", 6.0, deadline_s=9.0))
    assert refused.reason is Reason.DEADLINE  # alone it would make it
    assert isinstance(driver.submit(a_ticket("small", 4.0, deadline_s=9.0)), Queued)
    driver.run_until(100.0)
    assert driver.ends == {"runs": 2.0, "small": 6.0, "old": 16.0}


def test_a_newcomer_that_would_fit_behind_an_older_promise_but_goes_before_it_is_refused_too():
    driver = Driver(a_fleet(1, promise_share=1.0, stop_s=0.0))
    driver.submit(a_ticket("runs", 2.0, deadline_s=2.0))
    driver.decide()
    driver.submit(a_ticket("old", 10.0, deadline_s=23.0))
    refused = driver.submit(a_ticket("new", 12.0, deadline_s=24.5))
    assert (refused.reason, refused.retry_after_s) == (Reason.DEADLINE, 1.0)
    driver.run_until(100.0)
    assert driver.ends == {"runs": 2.0, "old": 12.0}


def test_people_do_not_take_the_place_that_a_deadline_will_need():
    fleet = a_fleet(1, promise_share=1.0, stop_s=0.0)
    fleet.submit(a_ticket("render", 500.0), 0.0)
    fleet.next_decisions(0.0)
    assert isinstance(fleet.submit(a_ticket("dated", 10.0, deadline_s=30.0), 0.0), Queued)
    refused = fleet.submit(a_ticket("me", 25.0, interactive=True, deadline_s=26.0), 0.0)
    assert refused.reason is Reason.DEADLINE
    assert isinstance(fleet.submit(a_ticket("short", 15.0, interactive=True, deadline_s=16.0), 0.0), Queued)


@pytest.mark.parametrize(("weight", "given"), [(1.0, 5), (3.0, 7)])
def test_a_flood_of_deadlines_is_promised_its_part_while_others_want_promises(weight, given):
    fleet = a_fleet(1, promise_share=1.0, stop_s=0.0, weights={"flood": weight})
    fleet.submit(a_ticket("runs", 2.0, deadline_s=2.0), 0.0)
    fleet.next_decisions(0.0)
    fleet.submit(a_ticket("mine", 10.0, deadline_s=100.0, tenant="me"), 0.0)
    answers = [fleet.submit(a_ticket(n, 10.0, deadline_s=100.0, tenant="flood"), 0.0) for n in range(12)]
    # another begins while what it has is at most its part of the 90 s until the latest start
    assert [type(answer) for answer in answers] == [Queued] * given + [Refused] * (12 - given)
    assert answers[-1].reason is Reason.SHARE
    assert answers[-1].retry_after_s == pytest.approx(10.0 * given)
    assert isinstance(fleet.submit(a_ticket("again", 10.0, deadline_s=100.0, tenant="me"), 0.0), Queued)


def test_more_gpus_are_taken_where_the_deadline_asks_for_them():
    table = {1: 40.0, 2: 21.0, 4: 12.0}
    for deadline_s, gpus in ((41.0, 1), (22.0, 2), (12.0, 4)):
        fleet = a_fleet(4, widens=False)
        fleet.submit(a_ticket("a", table, deadline_s=deadline_s), 0.0)
        assert [d.gpus for d in fleet.next_decisions(0.0)] == [gpus]
    refused = a_fleet(4).submit(a_ticket("a", table, deadline_s=11.0), 0.0)
    assert (refused.finish_s, refused.retry_after_s) == (12.0, None)  # waiting would not help


def test_an_interactive_ticket_stops_the_render_that_would_run_longest():
    fleet = a_fleet(2)
    for name, seconds in (("short", 50.0), ("long", 90.0)):
        fleet.submit(a_ticket(name, seconds), 0.0)
    fleet.next_decisions(0.0)
    fleet.submit(a_ticket("me", 5.0, interactive=True, stream=True), 10.0)
    (stop,) = fleet.next_decisions(10.0)
    assert stop == Preempt(request_id="long", engine_id="e0", attempt=1)
    assert fleet.next_decisions(10.5) == []  # one is enough
    assert fleet.stopped("long", 1, 0.8, 11.0)
    assert places(fleet.next_decisions(11.0)) == [("me", "e0")]
    fleet.finish("me", 1, 16.0)
    (again,) = fleet.next_decisions(16.0)
    assert (again.request_id, again.attempt, again.left) == ("long", 2, 0.8)
    assert again.finish_s == pytest.approx(16.0 + 72.0)


def test_streams_and_promised_renders_are_not_stopped():
    fleet = a_fleet(2)
    fleet.submit(a_ticket("stream", 90.0, stream=True), 0.0)
    fleet.submit(a_ticket("dated", 90.0, deadline_s=100.0), 0.0)
    fleet.next_decisions(0.0)
    refused = fleet.submit(a_ticket("me", 5.0, interactive=True), 1.0)
    assert isinstance(refused, Refused | Queued)
    assert fleet.next_decisions(1.0) == []


def test_a_deadline_stops_renders_only_when_it_comes_near():
    fleet = a_fleet(1, urgent_s=5.0, promise_share=1.0)
    fleet.submit(a_ticket("render", 500.0), 0.0)
    fleet.next_decisions(0.0)
    fleet.submit(a_ticket("dated", 10.0, deadline_s=113.0), 0.0)
    assert fleet.next_decisions(0.0) == []
    assert fleet.wake_s() == 95.0
    assert [type(d) for d in fleet.next_decisions(95.0)] == [Preempt]


def test_a_session_stops_a_render_on_its_own_engine():
    fleet = a_fleet(1, 1)
    fleet.submit(a_ticket("s0", session="s", interactive=True), 0.0)
    (home,) = fleet.next_decisions(0.0)
    fleet.finish("s0", 1, 10.0)
    for name in range(2):
        fleet.submit(a_ticket(name, 100.0), 10.0)
    there = {d.engine_id: d.request_id for d in fleet.next_decisions(10.0)}
    fleet.submit(a_ticket("s1", session="s", interactive=True), 11.0)
    (stop,) = fleet.next_decisions(11.0)
    assert (stop.engine_id, stop.request_id) == (home.engine_id, there[home.engine_id])


def test_a_broken_promise_is_told_to_people_and_forgotten_for_renders():
    fleet = a_fleet(1, 1, promise_share=1.0)
    for name in range(2):
        fleet.submit(a_ticket(name, 50.0, deadline_s=60.0), 0.0)
    fleet.next_decisions(0.0)
    assert isinstance(fleet.submit(a_ticket("person", 5.0, interactive=True, deadline_s=80.0), 1.0), Queued)
    assert isinstance(fleet.submit(a_ticket("render", 5.0, deadline_s=80.0), 1.0), Queued)
    fleet.engine_down("e0", 2.0)
    fleet.report("1", 1, 1.0, 60.0)  # it turned out to be much slower
    fleet.finish("1", 1, 100.0)
    decisions = fleet.next_decisions(100.0)
    assert [(d.request_id, getattr(d, "reason", None)) for d in decisions if d.request_id != "0"] == [
        ("person", Reason.LATE)
    ]
    fleet.finish("0", 2, 150.0)
    assert places(fleet.next_decisions(150.0)) == [("render", "e1")]


@pytest.mark.parametrize("seed", range(20))
def test_every_promise_is_kept_when_predictions_are_true(seed):
    """The bound of list scheduling: what is admitted is never late, whatever comes after it."""
    draw = random.Random(seed)
    driver, deadlines, refused = Driver(a_fleet(2, 2, 1, promise_share=1.0, stop_s=0.5)), {}, 0
    for number in range(300):
        driver.run_until(driver.now + draw.expovariate(1 / 1.5))
        seconds = draw.choice((2.0, 8.0, 20.0))
        deadline_s = None if draw.random() < 0.3 else driver.now + seconds + draw.choice((0.5, 5.0, 60.0))
        interactive = deadline_s is not None and draw.random() < 0.5
        ticket = a_ticket(number, seconds, deadline_s=deadline_s, interactive=interactive)
        if isinstance(driver.submit(ticket), Refused):
            refused += 1
        elif deadline_s is not None:
            deadlines[ticket.request_id] = deadline_s
    driver.run_until(float("inf"))
    assert refused > 20  # it was more than could be done
    assert len(deadlines) > 50
    assert not driver.refused
    assert [name for name, due in deadlines.items() if driver.ends[name] > due + 1e-6] == []


@pytest.mark.parametrize("seed", range(5))
def test_the_tree_sums_as_a_list_does(seed):
    draw, gpus, waiting = random.Random(seed), 4.0, []
    tree = SlackTree(gpus, 100.0)
    for number in range(400):
        if waiting and draw.random() < 0.4:
            tree.remove(waiting.pop(draw.randrange(len(waiting))))
        else:
            entry = Entry(a_ticket(number, draw.uniform(1, 50)), number, 100.0)
            entry.latest_s = 100.0 + draw.randrange(4 * 300) / 4  # on ticks, where the tree is exact
            tree.add(entry)
            waiting.append(entry)
        asked = 100.0 + draw.randrange(4 * 300) / 4
        ahead, spare = tree.ahead_s(asked)
        assert ahead == pytest.approx(sum(e.work_s for e in waiting if e.latest_s <= asked))
        later = {e.latest_s for e in waiting if e.latest_s > asked}
        exact = min((gpus * s - before(waiting, s) for s in later), default=float("inf"))
        assert spare == pytest.approx(exact)


def before(waiting, latest_s):
    """GPU-seconds ahead of the last of those with this latest start; alone in its tick it does not wait for itself."""
    same = [e.work_s for e in waiting if e.latest_s == latest_s]
    return sum(e.work_s for e in waiting if e.latest_s < latest_s) + (0.0 if len(same) == 1 else sum(same))


@pytest.mark.parametrize("seed", range(5))
def test_between_ticks_the_tree_errs_on_the_safe_side_by_a_tick_at_most(seed):
    """Starts from seconds to weeks ahead; some share a tick, and not its beginning."""
    draw, gpus, waiting = random.Random(seed), 2.0, []
    tree = SlackTree(gpus, 100.0)
    for number in range(300):
        entry = Entry(a_ticket(number, draw.uniform(1, 50)), number, 100.0)
        entry.latest_s = 100.0 + draw.choice((10.0, 1e4, 9e5)) * draw.random()
        tick_s = 0.25 if entry.latest_s < 100.0 + 4096 else 60.0
        ahead, spare = tree.ahead_s(entry.latest_s)
        before_s = sum(e.work_s for e in waiting if e.latest_s <= entry.latest_s)
        near = [e.work_s for e in waiting if abs(e.latest_s - entry.latest_s) <= tick_s]
        assert before_s <= ahead + 1e-6 <= before_s + sum(near) + 2e-6
        later = [e.latest_s for e in waiting if e.latest_s > entry.latest_s]
        exact = min((gpus * s - before(waiting, s) for s in later), default=float("inf"))
        assert spare <= exact + 1e-6
        assert spare >= exact - gpus * 60.0 - 50.0 * 60 or exact == float("inf")
        tree.add(entry)
        waiting.append(entry)


def test_hundreds_of_models_without_promises_take_no_room_for_them():
    tracemalloc.start()
    try:
        fleet = a_fleet(promise_share=1.0, stop_s=0.0)
        for number in range(200):
            fleet.engine_up(an_engine(number, model=f"m{number}"), 0.0)
        for number in range(200):  # and none where what is promised begins at once
            fleet.submit(replace(a_ticket(number, 10.0, deadline_s=100.0), model=f"m{number}"), 0.0)
        assert len(fleet.next_decisions(0.0)) == 200
        assert tracemalloc.get_traced_memory()[0] < 10_000_000
        assert isinstance(fleet.submit(replace(a_ticket("waits", 10.0, deadline_s=100.0), model="m7"), 0.0), Queued)
    finally:
        tracemalloc.stop()


def test_a_newcomer_that_goes_just_before_an_older_promise_may_not_break_it():
    """Both latest starts lie within one tick of the clock that promises are counted by."""
    fleet = a_fleet(1, promise_share=1.0, stop_s=0.0)
    fleet.submit(a_ticket("runs", 99.0, deadline_s=1000.0), 0.0)
    fleet.next_decisions(0.0)
    assert isinstance(fleet.submit(a_ticket("old", 1.0, deadline_s=101.2), 0.0), Queued)  # begins by 100.2
    assert fleet.submit(a_ticket("new", 30.0, deadline_s=130.1), 0.0).reason is Reason.DEADLINE  # by 100.1, for 30 s
    assert isinstance(fleet.submit(a_ticket("small", 1.0, deadline_s=101.1), 0.0), Queued)


def test_deadlines_hours_ahead_are_refused_only_when_they_cannot_be_kept():
    driver, hour = Driver(a_fleet(1, promise_share=1.0)), 3600.0
    for number in range(20):
        assert isinstance(driver.submit(a_ticket(number, hour, deadline_s=24 * hour)), Queued)
    assert isinstance(driver.submit(a_ticket("sooner", hour, deadline_s=4 * hour)), Queued)
    refused = driver.submit(a_ticket("too much", 4 * hour, deadline_s=24 * hour))
    assert refused.reason is Reason.DEADLINE
    assert refused.finish_s > 24 * hour
    driver.run_until(float("inf"))
    assert driver.ends["sooner"] <= 4 * hour
    assert max(driver.ends.values()) == 21 * hour


def test_the_window_moves_with_time():
    driver = Driver(a_fleet(1, promise_share=1.0))
    for day in range(5):
        driver.now = 80_000.0 * day
        driver.submit(a_ticket(f"a{day}", deadline_s=driver.now + 20.0))
        driver.submit(a_ticket(f"b{day}", deadline_s=driver.now + 30.0))
        assert driver.submit(a_ticket(f"c{day}", deadline_s=driver.now + 29.0)).reason is Reason.DEADLINE
        driver.run_until(driver.now + 100.0)
    assert len(driver.ends) == 10
