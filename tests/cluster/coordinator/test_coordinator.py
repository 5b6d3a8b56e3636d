"""Houses come and go, ask and report; the coordinator decides."""

from dataclasses import replace

import pytest

from reelray.cluster.coordinator.messages import (
    Asked,
    Ended,
    EngineCame,
    EngineWent,
    Inquired,
    Left,
    Load,
    MadeRoom,
    Moved,
    Run,
    Turned,
    Waits,
)
from reelray.proto.request import RequestId
from reelray.scheduler.fleet.decision import Reason
from reelray.scheduler.fleet.ticket import EngineId
from tests.support.coordinating import FakeHouse, a_coordinator, offer, wish


def ended(begin, **rest):
    return Ended(request_id=begin.request_id, run=begin.run, **rest)


def test_who_asks_begins_or_waits_and_hears_how_it_stands():
    coordinator, clock = a_coordinator()
    house = FakeHouse("h", coordinator, offer("h/m"))
    for name in ("a", "b", "c"):
        house.say(Asked(wish=wish(name)))
    assert house.told() == [("Begin", "a")]
    clock.go_to(1.0)
    stands = house.waits()
    assert {name: waits.position for name, waits in stands.items()} == {"b": 1, "c": 2}
    assert stands["b"].start_s >= 9.0
    house.say(ended(house.begun["a"]))
    assert house.told() == [("Begin", "b")]
    house.say(Left(request_id=RequestId("c")))
    house.say(ended(house.begun["b"]))
    assert house.told() == []


def test_a_deadline_that_cannot_be_kept_is_refused_with_the_predicted_time():
    coordinator, _ = a_coordinator()
    house = FakeHouse("h", coordinator, offer("h/m"))
    house.say(Asked(wish=wish("a", 49)))
    house.say(Asked(wish=wish("b", within_s=20.0)))
    assert house.told()[-1] == ("Turned", "b")
    house.say(Asked(wish=wish("b", within_s=20.0)))
    (turned,) = [w for w in house.words if isinstance(w, Turned)]
    assert turned.reason is Reason.DEADLINE
    assert turned.finish_s == pytest.approx(40.0, rel=0.2)
    assert turned.retry_after_s is not None
    house.say(Asked(wish=wish("c", within_s=100.0)))
    house.say(ended(house.begun["a"]))
    assert house.told() == [("Turned", "b"), ("Begin", "c")]


def test_people_stop_renders_which_go_on_where_they_were():
    coordinator, clock = a_coordinator()
    house = FakeHouse("h", coordinator, offer("h/m"))
    coordinator.know_renders([wish("film:1", 81, render=True)])
    first = house.begun["film:1"]
    assert first.render.request_id == "film:1"
    clock.go_to(20.0)
    house.say(Asked(wish=wish("p")))
    assert house.told() == [("Begin", "film:1"), ("MakeRoom", "film:1")]
    house.say(MadeRoom(request_id=first.request_id, run=first.run, left=0.6))
    assert house.told() == [("Begin", "p")]
    house.say(ended(first))  # of a run that is over
    house.say(ended(house.begun["p"]))
    again = house.begun["film:1"]
    assert again.run != first.run
    assert again.left == 0.6
    assert again.work_s == pytest.approx(30.0)
    assert house.told() == [("Begin", "film:1")]


def test_what_was_measured_counts_from_then_on():
    coordinator, _ = a_coordinator()
    house = FakeHouse("h", coordinator, offer("h/m"))
    house.say(Asked(wish=wish("a")))
    assert house.begun["a"].work_s == 10.0
    house.say(ended(house.begun["a"], pace=3.0))
    house.say(Asked(wish=wish("b", within_s=25.0)))
    house.say(Asked(wish=wish("c", within_s=40.0)))
    assert house.told() == [("Begin", "a"), ("Turned", "b"), ("Begin", "c")]
    assert house.begun["c"].work_s == 10.0  # by the table still


def test_how_far_something_is_moves_what_is_predicted():
    coordinator, _ = a_coordinator()
    house = FakeHouse("h", coordinator, offer("h/m"))
    house.say(Asked(wish=wish("a")))
    house.say(Moved(request_id=RequestId("a"), run=house.begun["a"].run, remaining_s=100.0))
    house.say(Asked(wish=wish("b")))
    assert house.waits()["b"].start_s == pytest.approx(100.0)


def test_what_was_asked_for_at_home_is_made_at_home():
    coordinator, _ = a_coordinator()
    one = FakeHouse("one", coordinator, offer("one/m"))
    for name in ("a", "b"):
        one.say(Asked(wish=wish(name)))
    two = FakeHouse("two", coordinator, offer("two/m"))
    assert (one.told(), two.told()) == ([("Begin", "a")], [])
    coordinator.know_renders([wish("film:1", render=True)])  # that, any house makes
    assert (one.told(), two.told()) == ([], [("Begin", "film:1")])
    one.say(ended(one.begun["a"]))
    assert one.told() == [("Begin", "b")]


def test_an_engine_that_goes_turns_away_who_waits_for_it_and_leaves_renders_to_others():
    coordinator, _ = a_coordinator()
    one, two = FakeHouse("one", coordinator, offer("one/m")), FakeHouse("two", coordinator, offer("two/m"))
    coordinator.know_renders([wish("film:1", render=True), wish("film:2", render=True), wish("film:3", render=True)])
    one.say(Asked(wish=wish("a")))
    told = [*one.told(), *two.told()]
    assert told.count(("MakeRoom", "film:1")) + told.count(("MakeRoom", "film:2")) == 1
    one.say(EngineWent(engine_id=offer("one/m").engine_id))
    assert one.told() == [("Turned", "a")]
    assert len(coordinator.renders) == 2  # of the one that ran there its house and the store will tell
    two.say(ended(next(iter(two.begun.values()))))
    assert two.told() == [("Begin", "film:3")]
    one.say(EngineCame(offer=offer("one/m")))
    one.say(Asked(wish=wish("b")))
    assert one.told() == [("Begin", "b")]


def test_a_house_that_is_gone_leaves_nothing_behind():
    coordinator, _ = a_coordinator()
    one = FakeHouse("one", coordinator, offer("one/m"))
    one.say(Asked(wish=wish("a")))
    one.say(Asked(wish=wish("b")))
    coordinator.leave("one")
    one.say(Asked(wish=wish("c")))
    two = FakeHouse("two", coordinator, offer("two/m"))
    two.say(Asked(wish=wish("d")))
    assert (one.told(), two.told()) == ([("Begin", "a")], [("Begin", "d")])


def test_a_successor_leaves_alone_what_runs_and_goes_on_with_what_waits():
    before, _ = a_coordinator(fence=1)
    house = FakeHouse("h", before, offer("h/m", ranks=2))
    before.know_renders([wish("film:1", 49, render=True)])
    house.say(Asked(wish=wish("a", 49)))
    house.say(Asked(wish=wish("b")))
    assert house.told() == [("Begin", "film:1"), ("Begin", "a"), ("MakeRoom", "film:1")]
    runs = [
        Run(
            wish=begin.render or wish("a", 49),
            engine_id=begin.engine_id,
            gpus=1,
            run=begin.run,
            left=0.5,
            is_render=begin.render is not None,
        )
        for begin in house.begun.values()
    ]
    after, clock = a_coordinator(fence=2)
    again = FakeHouse("h", after, offer("h/m", ranks=2), runs=runs, waiting=[wish("b", waited_s=5.0)])
    assert again.told() == [("MakeRoom", "film:1")]  # asked anew: the house may not have heard
    assert after.renders == {"film:1"}
    after.know_renders([wish("film:1", 49, render=True)])
    clock.go_to(1.0)
    again.say(MadeRoom(request_id=RequestId("film:1"), run=house.begun["film:1"].run, left=0.4))
    assert again.told() == [("Begin", "b")]
    assert again.begun["b"].run > max(begin.run for begin in house.begun.values())
    again.say(ended(house.begun["a"]))
    assert again.told() == [("Begin", "film:1")]


def test_houses_hear_how_much_there_is_to_do():
    coordinator, clock = a_coordinator()
    house = FakeHouse("h", coordinator, offer("h/m", ranks=2))
    coordinator.know_renders([wish(f"film:{n}", render=True) for n in range(6)])
    clock.go_to(3.0)
    load = [word for word in house.words if isinstance(word, Load)][-1]
    assert load == Load(model="m", queue_s=4 * 10.0 / 2, busy=1.0, waiting=4, gpus=2)


def test_a_lane_whose_requests_share_forwards_takes_several():
    coordinator, _ = a_coordinator()
    house = FakeHouse("h", coordinator, replace(offer("h/m"), together=2))
    for name in ("a", "b", "c"):
        house.say(Asked(wish=wish(name)))
    assert house.told() == [("Begin", "a"), ("Begin", "b")]


def test_another_engine_of_a_house_that_is_there_has_nobody_ask_anew():
    """Asking anew gives promises anew: those who wait could be refused what they were promised."""
    coordinator, clock = a_coordinator()
    houses = [FakeHouse(name, coordinator, offer(f"{name}/m")) for name in ("one", "two")]
    for house in houses:
        house.say(Asked(wish=wish(f"{house.name} runs", 81)))
    houses[0].say(Asked(wish=wish("waits", within_s=70.0)))  # 50 s of the first, 10 of its own
    clock.go_to(2.0)
    first = houses[0].begun["one runs"]
    houses[0].say(Moved(request_id=first.request_id, run=first.run, remaining_s=60.0))
    FakeHouse("three", coordinator, offer("three/m"))
    assert houses[0].told(Turned) == []
    houses[0].say(ended(houses[0].begun["one runs"]))
    assert houses[0].told()[-1] == ("Begin", "waits")


def test_who_coordinates_no_more_lets_nobody_in_and_sets_no_alarms():
    coordinator, clock = a_coordinator()
    coordinator.close()
    house = FakeHouse("late", coordinator, offer("late/m"))
    clock.go_to(10.0)
    house.say(Asked(wish=wish("a")))
    assert house.words == []
    assert clock.is_idle


def inquire(house, name, within_s, frames=17):
    house.words = []
    house.say(Inquired(wish=wish(name, frames, render=True, within_s=within_s)))
    (said,) = house.words
    return said


def test_a_render_with_a_deadline_is_foretold_and_its_promise_kept_until_it_comes():
    coordinator, clock = a_coordinator()
    house = FakeHouse("h", coordinator, offer("h/m"))
    assert isinstance(inquire(house, "t:1", 15.0), Waits)
    refused = inquire(house, "t:2", 15.0)  # the first has the room
    assert (refused.reason, refused.request_id) == (Reason.DEADLINE, "t:2")
    assert refused.finish_s == pytest.approx(20.0, rel=0.2)
    assert house.begun == {}
    coordinator.know_renders([wish("t:1", render=True, within_s=15.0)])
    assert list(house.begun) == ["t:1"]
    assert isinstance(inquire(house, "t:2", 15.0), Turned)  # it runs
    assert isinstance(inquire(house, "t:3", 40.0), Waits)
    clock.go_to(6.0)  # it never came
    assert isinstance(inquire(house, "t:4", 30.0), Waits)


def test_a_render_that_is_late_is_made_all_the_same():
    """Its deadline could be kept when it was submitted, and no more when it came: an engine was lost meanwhile."""
    coordinator, _ = a_coordinator()
    house = FakeHouse("h", coordinator, offer("h/m"))
    house.say(Asked(wish=wish("runs", 49)))
    coordinator.know_renders([wish("t:late", render=True, within_s=5.0)])
    assert "t:late" in coordinator.renders
    house.say(ended(house.begun["runs"]))
    assert list(house.begun) == ["runs", "t:late"]


def test_what_runs_by_a_deadline_keeps_its_promise_under_a_successor():
    """Nobody stops it; without a deadline, or with one that was given up, it makes room as before."""

    def begun(**said):
        coordinator, clock = a_coordinator(fence=1)
        house = FakeHouse("h", coordinator, offer("h/m"))
        house.say(Asked(wish=wish("first")))
        coordinator.know_renders([wish("t:film", 49, render=True, **said)])
        clock.go_to(10.0)
        house.say(ended(house.begun["first"]))
        return house.begun["t:film"]

    def under_a_successor(begin):
        run = Run(wish=begin.render, engine_id=begin.engine_id, gpus=1, run=begin.run, left=0.5, is_render=True)
        after, _ = a_coordinator(fence=2)
        again = FakeHouse("h", after, offer("h/m"), runs=[run])
        again.say(Asked(wish=wish("person", 17)))
        return [decision for decision in again.told() if decision[0] == "MakeRoom"]

    promised = begun(within_s=60.0)
    assert promised.render.within_s == pytest.approx(50.0)  # from the moment in which it is begun
    assert under_a_successor(promised) == []
    for plain in (begun(), begun(within_s=20.0)):
        assert plain.render.within_s is None
        assert under_a_successor(plain) == [("MakeRoom", "t:film")]


def test_nobody_promises_without_an_engine():
    coordinator, _ = a_coordinator()
    house = FakeHouse("h", coordinator)
    assert inquire(house, "t:1", 1e6).reason is Reason.NO_ENGINE


def test_what_a_house_said_before_it_came_again_is_passed_over():
    """Two lines may overlap: the last words of the first come behind the first ones of the second."""
    coordinator, _ = a_coordinator()
    old = FakeHouse("h", coordinator, offer("h/m"))
    new = FakeHouse("h", coordinator, offer("h/m"))
    coordinator.take("h", EngineWent(engine_id=EngineId("h/m")), old.hear)
    coordinator.take("h", Asked(wish=wish("a")), new.hear)
    assert new.told() == [("Begin", "a")]
