"""What another driver was doing goes on, and counts as if it had been decided here."""

from reelray.proto.request import RequestId
from reelray.scheduler.fleet.decision import Placed, Preempt, Queued, Reason, Refused
from reelray.scheduler.fleet.ticket import EngineId
from tests.support.fleet_cases import Driver, a_fleet, a_ticket, an_engine, places


def runs(name, engine="e0", *, attempt=1, left=1.0, now=0.0, seconds=10.0):
    return Placed(
        request_id=RequestId(name),
        engine_id=EngineId(engine),
        gpus=1,
        attempt=attempt,
        start_s=now,
        finish_s=now + left * seconds,
        left=left,
    )


def test_what_runs_keeps_its_gpus_until_it_ends():
    fleet = a_fleet(1)
    assert fleet.adopt(runs("old", attempt=3, left=0.4), a_ticket("old"))
    answer = fleet.submit(a_ticket("new"), 0.0)
    assert isinstance(answer, Queued)
    assert answer.start_s == 4.0
    assert fleet.next_decisions(0.0) == []
    assert not fleet.finish(RequestId("old"), 1, 4.0)  # of another attempt
    assert fleet.finish(RequestId("old"), 3, 4.0)
    assert places(fleet.next_decisions(4.0)) == [("new", "e0")]


def test_renders_that_were_taken_over_make_room_and_people_do_not():
    fleet = a_fleet(1, 1)
    fleet.adopt(runs("render", attempt=2), a_ticket("render"))
    fleet.adopt(runs("person", engine="e1"), a_ticket("person", interactive=True))
    fleet.submit(a_ticket("new", interactive=True), 0.0)
    (decision,) = fleet.next_decisions(0.0)
    assert decision == Preempt(request_id=RequestId("render"), engine_id=EngineId("e0"), attempt=2)
    assert fleet.stopped(RequestId("render"), 2, 0.5, 1.0)
    assert places(fleet.next_decisions(1.0)) == [("new", "e0")]
    fleet.submit(a_ticket("another", interactive=True), 1.0)
    assert fleet.next_decisions(1.0) == []


def test_there_is_no_place_for_more_than_an_engine_has():
    fleet = a_fleet(1)
    assert fleet.adopt(runs("a"), a_ticket("a"))
    assert not fleet.adopt(runs("b"), a_ticket("b"))
    assert not fleet.adopt(runs("c", engine="gone"), a_ticket("c"))
    fleet.cancel(RequestId("a"), 1.0)
    assert fleet.adopt(runs("b"), a_ticket("b"))


def test_waiting_elsewhere_counts():
    driver = Driver(a_fleet(1, tail_rounds=0))
    driver.submit(a_ticket("now"))
    driver.decide()
    driver.fleet.submit(a_ticket("high", priority=1), 0.0)
    driver.fleet.submit(a_ticket("old"), 0.0, waited_s=61.0)  # a level is worth 60 s
    driver.run_until(1000.0)
    assert driver.order == ["now", "old", "high"]


def test_a_ticket_of_one_engine_waits_for_that_one():
    driver = Driver(a_fleet(1, 1))
    driver.submit(a_ticket("long", 50.0))
    driver.decide()
    driver.submit(a_ticket("here", engine=EngineId("e0")))
    driver.submit(a_ticket("there", engine=EngineId("e1")))
    refused = driver.submit(a_ticket("nowhere", engine=EngineId("e9")))
    driver.run_until(1000.0)
    assert (driver.starts["here"], driver.starts["there"]) == (50.0, 0.0)
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.NO_ENGINE


def test_among_people_a_level_of_priority_is_worth_waiting_too():
    driver = Driver(a_fleet(1, patience_s=300.0))
    driver.submit(a_ticket("now", 5.0, interactive=True))
    driver.decide()
    for name, priority in (("low", -1), ("plain", 0), ("high", 1)):
        assert isinstance(driver.submit(a_ticket(name, 5.0, interactive=True, priority=priority)), Queued)
    driver.run_until(1000.0)
    assert driver.order == ["now", "high", "plain", "low"]


def test_a_high_priority_that_cannot_go_first_makes_do_with_a_later_place():
    fleet = a_fleet(1)
    fleet.adopt(runs("runs", seconds=20.0), a_ticket("runs", 20.0, interactive=True))
    answer = fleet.submit(a_ticket("high", interactive=True, priority=100), 0.0)
    assert isinstance(answer, Queued)


def test_those_who_wait_hear_how_they_stand():
    fleet = a_fleet(1)
    fleet.engine_up(an_engine("other", model="n"), 0.0)
    fleet.adopt(runs("runs"), a_ticket("runs"))
    fleet.submit(a_ticket("first"), 0.0)
    fleet.submit(a_ticket("second"), 0.0)
    fleet.cancel(RequestId("first"), 1.0)
    fleet.submit(a_ticket("third"), 1.0)
    told = {queued.request_id: queued.waiting for queued in fleet.standings(1.0)}
    assert told == {"second": 1, "third": 2}
    starts = [queued.start_s for queued in fleet.standings(1.0)]
    assert starts == sorted(starts)
    assert starts[0] >= 10.0
