"""What the simulator makes of known traffic."""

import pytest

from reelray.proto.errors import InputError
from reelray.scheduler.fleet.policy import FleetPolicy
from reelray.scheduler.fleet.ticket import Kind, Service, TenantId
from reelray.scheduler.simulation.arrival import Arrival, Fault, Shape
from reelray.scheduler.simulation.poisson import Poisson
from reelray.scheduler.simulation.result import percentiles, sum_up
from tests.support.simulated import SECONDS, STEP_S, all_at_once, draw_lengths, simulate

MEAN_S = sum(SECONDS.values()) / 3


def test_one_request_takes_what_it_costs():
    simulation = simulate(all_at_once([81]), count=1)
    (record,) = simulation.records
    assert (record.start_s, record.finish_s, record.gpu_s, record.engine) == (0.0, 34.5, 34.5, "e0")
    result = sum_up(simulation.records, gpus=1, events=simulation.count)
    assert (result.makespan_s, result.utilisation, result.events) == (34.5, 1.0, 2)


def test_a_stopped_render_takes_up_where_it_was_and_stops_at_a_step():
    person = Arrival(at_s=10.0, shape=Shape(frames=17), service=Service.INTERACTIVE, slo=3.0)
    render, record = simulate([*all_at_once([81]), person], count=1).records
    stop = 15 * STEP_S  # the end of the step that runs at 10 s
    assert (record.start_s, record.finish_s) == (pytest.approx(stop), pytest.approx(stop + 7.8))
    assert render.stops == 1
    assert render.finish_s == pytest.approx(34.5 + 7.8)
    assert render.gpu_s == pytest.approx(34.5)
    assert record.is_met


def test_a_lost_engine_costs_what_was_not_committed():
    happenings = [*all_at_once([81]), Fault(at_s=33.0, engine=0), Fault(at_s=50.0, engine=0, is_up=True)]
    (record,) = simulate(happenings, count=1).records
    assert record.lost_gpu_s == pytest.approx(3.0)
    assert record.finish_s == pytest.approx(50.0 + 4.5)
    assert record.gpu_s == pytest.approx(34.5 + 3.0)
    with pytest.raises(InputError, match="engine 7"):
        simulate([*all_at_once([17]), Fault(at_s=0.0, engine=7)])


def test_every_request_ends_once_and_the_work_is_that_of_the_requests():
    arrivals = list(Poisson(rate=0.5, seconds=2000, interactive=0.3, streams=0.2, tenants=3, seed=4).arrivals())
    faults = [Fault(at_s=500.0, engine=0), Fault(at_s=600.0, engine=0, is_up=True), Fault(at_s=900.0, engine=3)]
    simulation = simulate(sorted([*arrivals, *faults], key=lambda h: h.at_s), count=14)
    assert len(simulation.records) == len(arrivals)
    for record in simulation.records:
        assert (record.finish_s is None) != (record.refused is None)
        if record.finish_s is not None:
            assert record.gpu_s - record.lost_gpu_s == pytest.approx(record.alone_s)


def test_errors_of_prediction_change_times_and_the_same_seed_changes_them_alike():
    frames = draw_lengths(1, 30)
    exact, one, same, other = (
        [record.finish_s for record in simulate(all_at_once(frames), error=error, seed=seed).records]
        for error, seed in ((0.0, 0), (0.2, 1), (0.2, 1), (0.2, 2))
    )
    assert one == same
    assert one != exact
    assert one != other


def test_at_ninety_percent_load_people_are_served_and_renders_keep_the_rest():
    """The target of issue 5: 30 % of the load is interactive, deadlines are three times the time alone."""
    gpus, seconds = 64, 1800.0
    rate = 0.9 * gpus / MEAN_S
    arrivals = list(Poisson(rate=rate, seconds=seconds, interactive=0.3, tenants=4, seed=11).arrivals())
    simulation = simulate(arrivals, count=8, gpus=8, error=0.1)
    result = sum_up(simulation.records, gpus=gpus, events=simulation.count)
    people, renders = result.groups
    assert people.deadlines > 1400
    assert people.met >= 0.99
    assert renders.finished == renders.requests
    assert renders.gpu_s == pytest.approx(sum(r.alone_s for r in simulation.records if r.group == "batch"), rel=0.01)
    assert result.makespan_s < seconds + 120.0  # no backlog has grown


def test_renders_keep_what_people_leave():
    """The other half of that target: with renders enough, what people leave is worked, in spite of all stops."""
    gpus, seconds = 64, 1800.0
    people = list(Poisson(rate=0.27 * gpus / MEAN_S, seconds=seconds, interactive=1.0, seed=5).arrivals())
    simulation = simulate([*all_at_once(draw_lengths(5, 6000)), *people], count=8, gpus=8, error=0.1)
    by = {group: [r for r in simulation.records if r.group == group] for group in ("interactive", "batch")}
    assert sum(r.is_met for r in by["interactive"]) >= 0.99 * len(people)
    made = sum(r.alone_s for r in by["batch"] if r.finish_s <= seconds)  # those that were still running do not count
    assert made >= 0.85 * (gpus * seconds - sum(r.gpu_s for r in by["interactive"]))
    assert max(r.finish_s for r in by["batch"]) > seconds + 60.0  # there were enough


def test_with_more_renders_than_can_be_made_people_are_served_all_the_same():
    gpus = 16
    arrivals = list(Poisson(rate=1.5 * gpus / MEAN_S, seconds=1800, interactive=0.18, seed=3).arrivals())
    fair, fifo = (
        {g.group: g for g in sum_up(simulate(arrivals, count=gpus, policy=p).records, gpus=gpus, events=0).groups}
        for p in ("fair", "fifo")
    )
    assert fair["interactive"].met >= 0.99
    assert fifo["interactive"].met < 0.5
    assert fair["batch"].finished == fair["batch"].requests


def test_a_flood_does_not_delay_others():
    flood = [Arrival(at_s=0.0, shape=Shape(frames=81), tenant=TenantId("flood")) for _ in range(400)]
    others = [Arrival(at_s=60.0 * n, shape=Shape(frames=17), tenant=TenantId("me")) for n in range(1, 20)]
    happenings = [*flood, *others]
    waits = {}
    for policy in ("fair", "fifo"):
        records = simulate(happenings, count=4, policy=policy).records
        waits[policy] = max(r.start_s - r.at_s for r in records if r.tenant == "me")
    assert waits["fair"] <= 34.5  # a GPU is free after one ticket
    assert waits["fifo"] > 1000.0


def test_few_gpus_each_while_busy_and_many_while_idle():
    quiet, busy = (
        simulate(list(Poisson(rate=rate, seconds=1200, seed=2).arrivals()), count=2, gpus=8, wide=True).records
        for rate in (0.02, 0.9)
    )
    assert sum(r.gpu_s > r.alone_s * 1.1 for r in quiet) >= 0.9 * len(quiet)  # four GPUs work 1.18 times as much
    assert sum(r.gpu_s > r.alone_s * 1.1 for r in busy) <= 0.2 * len(busy)


def test_streams_must_have_begun_by_their_deadline():
    stream = Arrival(at_s=1.0, shape=Shape(frames=81, kind=Kind.STREAM), service=Service.INTERACTIVE, within_s=5.0)
    (record,) = simulate([stream], count=1).records
    assert record.is_met
    assert record.finish_s > record.deadline_s
    late = simulate([stream, stream], count=1, policy=FleetPolicy()).records
    assert [r.refused and r.refused.value for r in late] == [None, "deadline"]


def test_promises_that_are_broken_count_among_the_admitted():
    """All engines go while a person waits who was promised a place; another is refused as it comes."""
    person = Arrival(at_s=1.0, shape=Shape(frames=17), service=Service.INTERACTIVE, slo=8.0)
    too_soon = Arrival(at_s=1.0, shape=Shape(frames=17), service=Service.INTERACTIVE, slo=0.5)
    stream = Arrival(at_s=0.0, shape=Shape(frames=49, kind=Kind.STREAM), service=Service.INTERACTIVE, within_s=5.0)
    faults = [Fault(at_s=5.0, engine=0), Fault(at_s=90.0, engine=0, is_up=True)]
    simulation = simulate([stream, person, too_soon, *faults], count=1)
    people = sum_up(simulation.records, gpus=1, events=simulation.count).groups[1]
    assert (people.refused, people.met, people.met_of_admitted) == ({"late": 1, "deadline": 1}, 0.0, 0.0)


def test_percentiles_are_values_that_were_there():
    assert percentiles([]) == {}
    assert percentiles([3.0, 1.0, 2.0]) == {50: 2.0, 90: 3.0, 99: 3.0}
    assert percentiles([float(n) for n in range(1, 101)]) == {50: 50.0, 90: 90.0, 99: 99.0}
