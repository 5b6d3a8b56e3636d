"""Where tickets go."""

import pytest

from reelray.proto.errors import InputError
from reelray.scheduler.fleet.decision import Placed, Queued, Reason, Refused
from tests.support.fleet_cases import Driver, a_fleet, a_ticket, an_engine, places


def test_work_goes_to_the_engine_whose_work_ends_first_not_to_the_one_with_fewest_tickets():
    fleet = a_fleet(3, 3, widens=False)
    for name, seconds in (("a", 100.0), ("b", 10.0), ("c", 10.0), ("d", 10.0)):
        fleet.submit(a_ticket(name, seconds), 0.0)
    first = dict(places(fleet.next_decisions(0.0)))
    # gaps are filled first: an engine is full before the next is used
    assert first == {"a": "e0", "b": "e0", "c": "e0", "d": "e1"}
    fleet = a_fleet(2, 2, widens=False)
    fleet.submit(a_ticket("long", 100.0, session="s"), 0.0)
    fleet.submit(a_ticket("short", 10.0, session="t"), 0.0)
    fleet.next_decisions(0.0)
    fleet.submit(a_ticket("next", 10.0, session="u"), 0.0)
    assert places(fleet.next_decisions(0.0)) == [("next", "e1")]


def test_sessions_spread_over_engines_and_return_to_their_memory():
    fleet = a_fleet(2, 2)
    for name in ("a", "b"):
        fleet.submit(a_ticket(name, session=name, interactive=True), 0.0)
    placed = fleet.next_decisions(0.0)
    assert len({d.engine_id for d in placed}) == 2
    home = dict(places(placed))["b"]
    for d in placed:
        fleet.finish(d.request_id, d.attempt, 5.0)
    fleet.next_decisions(5.0)
    for name in ("b2", "b3"):
        fleet.submit(a_ticket(name, session="b", interactive=True), 6.0)
    assert places(fleet.next_decisions(6.0)) == [("b2", home), ("b3", home)]
    fleet.submit(a_ticket("b4", session="b", interactive=True), 7.0)
    assert fleet.next_decisions(7.0) == []  # its engine is full; the other one is idle, and not its home
    fleet.drop_session("b")
    fleet.submit(a_ticket("b5", session="b", interactive=True), 7.0)
    assert dict(places(fleet.next_decisions(7.0)))["b5"] != home


def test_a_session_whose_engine_is_lost_goes_on_elsewhere():
    fleet = a_fleet(1, 1)
    fleet.submit(a_ticket("a", session="s", interactive=True), 0.0)
    (placed,) = fleet.next_decisions(0.0)
    fleet.submit(a_ticket("next", session="s", interactive=True), 1.0)
    assert fleet.next_decisions(1.0) == []
    assert fleet.engine_down(placed.engine_id, 2.0) == []
    other = ({"e0", "e1"} - {placed.engine_id}).pop()
    assert places(fleet.next_decisions(2.0)) == [("a", other)]


def test_a_ticket_gets_many_gpus_while_few_wait_and_few_while_many_do():
    table = {1: 40.0, 2: 21.0, 4: 12.0, 8: 12.0}
    fleet = a_fleet(8)
    fleet.submit(a_ticket("alone", table), 0.0)
    (placed,) = fleet.next_decisions(0.0)
    assert (placed.gpus, placed.finish_s) == (4, 12.0)  # eight are no faster
    fleet = a_fleet(8)
    for name in range(4):
        fleet.submit(a_ticket(name, table), 0.0)
    assert [d.gpus for d in fleet.next_decisions(0.0)] == [2, 2, 2, 2]
    fleet = a_fleet(8)
    for name in range(20):
        fleet.submit(a_ticket(name, table), 0.0)
    assert [d.gpus for d in fleet.next_decisions(0.0)] == [1] * 8


def test_bytes_are_not_promised_twice():
    fleet = a_fleet(8, gib=10.0)
    for name in range(4):
        fleet.submit(a_ticket(name, gib=4.0), 0.0)
    placed = fleet.next_decisions(0.0)
    assert len(placed) == 2
    fleet.report_held("e0", 5 * 2**30)
    fleet.finish(placed[0].request_id, 1, 1.0)
    assert fleet.next_decisions(1.0) == []
    fleet.report_held("e0", 1 * 2**30)
    assert len(fleet.next_decisions(2.0)) == 1


def test_what_no_engine_can_take_is_refused_at_once():
    fleet = a_fleet(2, gib=10.0)
    assert fleet.submit(a_ticket("a", gib=11.0), 0.0).reason is Reason.TOO_LARGE
    assert fleet.submit(a_ticket("b", {4: 1.0}), 0.0).reason is Reason.TOO_LARGE
    fleet.submit(a_ticket("c"), 0.0)
    with pytest.raises(InputError, match="here already"):
        fleet.submit(a_ticket("c"), 0.0)
    with pytest.raises(InputError, match="here already"):
        fleet.engine_up(an_engine("e0"), 0.0)


def test_lines_are_bounded_for_all_and_for_each_tenant():
    fleet = a_fleet(1, most_waiting=5, most_waiting_per_tenant=3)
    answers = [fleet.submit(a_ticket(name, tenant="a"), 0.0) for name in range(4)]
    assert [type(answer) for answer in answers] == [Queued, Queued, Queued, Refused]
    assert answers[3].reason is Reason.QUEUE_FULL
    assert answers[3].finish_s == pytest.approx(40.0)
    assert answers[3].retry_after_s > 0
    others = [fleet.submit(a_ticket(f"b{name}", tenant="b"), 0.0) for name in range(3)]
    assert [type(answer) for answer in others] == [Queued, Queued, Refused]


def test_old_reports_change_nothing():
    fleet = a_fleet(1)
    fleet.submit(a_ticket("a"), 0.0)
    (first,) = fleet.next_decisions(0.0)
    assert fleet.lost("a", first.attempt, 0.5, 5.0) is None
    (second,) = fleet.next_decisions(5.0)
    assert (second.attempt, second.left, second.finish_s) == (2, 0.5, 10.0)
    assert not fleet.finish("a", first.attempt, 6.0)
    assert not fleet.stopped("a", first.attempt, 0.1, 6.0)
    assert fleet.finish("a", second.attempt, 10.0)
    assert not fleet.finish("a", second.attempt, 10.0)


def test_what_loses_engine_after_engine_is_given_up():
    fleet = a_fleet(1, most_attempts=2)
    fleet.submit(a_ticket("a"), 0.0)
    for attempt in (1, 2):
        (placed,) = fleet.next_decisions(0.0)
        assert isinstance(placed, Placed)
        refused = fleet.engine_down("e0", 1.0)
        fleet.engine_up(an_engine("e0"), 1.0)
        assert [r.reason for r in refused] == ([Reason.LOST] if attempt == 2 else [])
    assert fleet.next_decisions(2.0) == []


def test_stops_are_no_losses_and_what_gets_on_may_lose_any_number_of_engines():
    fleet, now = a_fleet(1, most_attempts=2), 0.0
    fleet.submit(a_ticket("a", 100.0), 0.0)
    for left in (0.9, 0.9, 0.9, 0.9):
        (placed,) = fleet.next_decisions(now)
        now += 1.0
        assert fleet.stopped("a", placed.attempt, left, now)
    for left in (0.5, 0.4, 0.3):
        (placed,) = fleet.next_decisions(now)
        now += 1.0
        assert fleet.lost("a", placed.attempt, left, now) is None
    (placed,) = fleet.next_decisions(now)
    assert (placed.attempt, placed.left) == (8, 0.3)
    assert fleet.lost("a", placed.attempt, 0.3, now).reason is Reason.LOST


def test_a_ticket_that_only_a_mix_of_engines_could_take_is_refused_and_holds_nobody_up():
    """One engine has the GPUs, another one the bytes."""
    fleet = a_fleet(8, gib=50.0)
    fleet.engine_up(an_engine("roomy", 1, gib=200.0), 0.0)
    assert fleet.submit(a_ticket("both", {8: 10.0}, gib=100), 0.0).reason is Reason.TOO_LARGE
    assert isinstance(fleet.submit(a_ticket("gpus", {8: 10.0}, gib=50), 0.0), Queued)
    assert isinstance(fleet.submit(a_ticket("bytes", gib=200), 0.0), Queued)
    assert places(fleet.next_decisions(0.0)) == [("gpus", "e0"), ("bytes", "roomy")]


def test_renders_wait_for_engines_to_come_back_and_people_do_not():
    fleet = a_fleet(1)
    fleet.engine_down("e0", 0.0)
    assert isinstance(fleet.submit(a_ticket("r"), 1.0), Queued)
    refused = fleet.submit(a_ticket("s", interactive=True), 1.0)
    assert (refused.reason, refused.retry_after_s) == (Reason.NO_ENGINE, 10.0)
    assert fleet.submit(a_ticket("r2", deadline_s=99.0), 1.0).reason is Reason.NO_ENGINE
    fleet.engine_up(an_engine("e9"), 2.0)
    assert places(fleet.next_decisions(2.0)) == [("r", "e9")]


def test_a_fleet_tells_how_long_it_would_work_on_what_waits():
    fleet = a_fleet(2, 2)
    for name in range(12):
        fleet.submit(a_ticket(name, 10.0), 0.0)
    fleet.next_decisions(0.0)
    pressure = fleet.pressure()["m"]
    assert (pressure.queue_s, pressure.busy, pressure.waiting, pressure.gpus) == (20.0, 1.0, 8, 4)


def test_a_cancelled_ticket_leaves_its_line_or_its_engine():
    driver = Driver(a_fleet(1))
    for name in ("a", "b", "c"):
        driver.submit(a_ticket(name))
    driver.decide()
    assert driver.fleet.cancel("b", 0.0)
    assert not driver.fleet.cancel("b", 0.0)
    assert driver.fleet.cancel("a", 1.0)
    assert places(driver.fleet.next_decisions(1.0)) == [("c", "e0")]
    assert driver.fleet.pressure()["m"].waiting == 0


def test_what_is_too_large_for_the_engines_that_are_left_holds_nobody_up():
    fleet = a_fleet(1, 4)
    fleet.submit(a_ticket("runs", {4: 10.0}), 0.0)
    fleet.submit(a_ticket("large", {4: 10.0}), 0.0)
    assert len(fleet.next_decisions(0.0)) == 1
    fleet.engine_down("e1", 1.0)
    fleet.submit(a_ticket("small"), 1.0)
    assert places(fleet.next_decisions(1.0)) == [("small", "e0")]
    assert fleet.pressure()["m"].waiting == 2
    fleet.engine_up(an_engine("e2", 4), 2.0)
    assert places(fleet.next_decisions(2.0)) == [("runs", "e2")]
    assert fleet.cancel("large", 3.0)
    assert fleet.pressure()["m"].waiting == 0


def test_an_engine_keeps_its_free_gpus_for_the_session_that_waits_for_more_of_them():
    fleet = a_fleet(2)
    fleet.submit(a_ticket("s0", session="s"), 0.0)
    fleet.submit(a_ticket("long", 100.0), 0.0)
    assert len(fleet.next_decisions(0.0)) == 2
    fleet.submit(a_ticket("s1", {2: 5.0}, session="s"), 1.0)
    fleet.submit(a_ticket("other"), 1.0)
    fleet.finish("s0", 1, 10.0)
    assert fleet.next_decisions(10.0) == []
    fleet.finish("long", 1, 100.0)
    assert places(fleet.next_decisions(100.0)) == [("s1", "e0")]


def test_engines_are_compared_by_what_they_last_told():
    fleet = a_fleet(2, 2)
    for name, seconds in (("a", 40.0), ("b", 50.0)):
        fleet.submit(a_ticket(name, seconds, session=name), 0.0)
    homes = dict(places(fleet.next_decisions(0.0)))
    fleet.report("a", 1, 1.0, 30.0)  # all of it is left: it ends at 70 s, after b
    fleet.submit(a_ticket("c", session="c"), 30.0)
    assert places(fleet.next_decisions(30.0)) == [("c", homes["b"])]
