"""Sums of running work against counting it."""

import random

import pytest

from reelray.proto.request import RequestId
from reelray.scheduler.fleet.decision import Queued
from reelray.scheduler.fleet.entry import Entry
from reelray.scheduler.fleet.load import Load
from tests.support.fleet_cases import a_fleet, a_ticket


@pytest.mark.parametrize("seed", range(5))
def test_the_sums_are_what_counting_gives_whatever_runs_over_its_time(seed):
    draw, load, running, now = random.Random(seed), Load(), [], 0.0
    for number in range(2000):
        now += draw.expovariate(1.0)
        kind = draw.random()
        if kind < 0.4 or not running:
            entry = Entry(a_ticket(number), number, now)
            entry.gpus, entry.finish_s = draw.choice((1, 2, 8)), now + draw.uniform(0, 60)
            load.add(entry)
            running.append(entry)
        elif kind < 0.6:
            load.remove(running.pop(draw.randrange(len(running))))
        else:
            entry = draw.choice(running)
            load.remove(entry)
            entry.finish_s = now + draw.uniform(0, 60)
            load.add(entry)
        assert load.gpus == sum(entry.gpus for entry in running)
        counted = sum(entry.gpus * max(0.0, entry.finish_s - now) for entry in running)
        assert load.remaining_s(now) == pytest.approx(counted, abs=1e-6)


def test_a_ticket_that_runs_over_its_time_hides_no_work_of_others():
    fleet = a_fleet(1, 1, promise_share=1.0, preempts=False)
    fleet.submit(a_ticket("over", 10.0, deadline_s=1e4), 0.0)
    fleet.submit(a_ticket("long", 1000.0, deadline_s=1e4), 0.0)
    fleet.next_decisions(0.0)
    # at 800 s it is 790 s late, and the other has 200 s to go: 100 s of both GPUs
    later = Queued(request_id=RequestId("later"), start_s=900.0, waiting=1)
    assert fleet.submit(a_ticket("later", 10.0), 800.0) == later
