"""What cannot be stopped leaves room for who comes next."""

from reelray.scheduler.fleet.decision import Preempt, Queued
from tests.support.fleet_cases import a_fleet, a_ticket

TABLE = {1: 40.0, 2: 21.0, 4: 12.0, 8: 7.0}


def test_people_get_at_most_half_of_the_gpus_beyond_what_they_need():
    fleet = a_fleet(8)
    fleet.submit(a_ticket("a", TABLE, interactive=True), 0.0)
    assert [d.gpus for d in fleet.next_decisions(0.0)] == [4]
    fleet.submit(a_ticket("b", TABLE, interactive=True), 1.0)
    assert [d.gpus for d in fleet.next_decisions(1.0)] == [1]
    fleet.submit(a_ticket("render", TABLE), 1.0)
    assert [d.gpus for d in fleet.next_decisions(1.0)] == [2]


def test_people_are_promised_the_places_of_renders():
    fleet = a_fleet(4)
    fleet.submit(a_ticket("stream", 500.0, interactive=True, stream=True), 0.0)
    for number in range(3):
        fleet.submit(a_ticket(number, 500.0), 0.0)
    fleet.next_decisions(0.0)
    for name in "abc":  # the running stream would fill 139 s of all GPUs; what counts are the renders' places
        assert isinstance(fleet.submit(a_ticket(name, 5.0, interactive=True, deadline_s=9.0), 0.0), Queued)
    refused = fleet.submit(a_ticket("d", 5.0, interactive=True, deadline_s=9.0), 0.0)
    assert refused.finish_s > 9.0
    assert [type(d) for d in fleet.next_decisions(0.0)] == [Preempt] * 3
