"""Traces and drawn traffic."""

from itertools import pairwise

import pytest

from reelray.proto.errors import InputError
from reelray.scheduler.fleet.ticket import Kind, Service
from reelray.scheduler.simulation.arrival import Arrival, Cost, Fault, Shape
from reelray.scheduler.simulation.poisson import Poisson
from reelray.scheduler.simulation.trace import read_trace


def test_a_trace_is_sorted_and_every_field_is_taken():
    lines = [
        '{"at": 9, "event": "up", "engine": 2}',
        "",
        '{"at": 2, "kind": "stream", "class": "interactive", "frames": 33, "within": 4, "session": "s"}',
        '{"at": 1.5, "model": "m", "size": "64x32", "tenant": "a", "slo": 3, "priority": -1}',
    ]
    first, second, third = read_trace(lines)
    assert first == Arrival(at_s=1.5, shape=Shape(model="m", size="64x32", frames=81), tenant="a", slo=3, priority=-1)
    assert second.shape == Shape(frames=33, kind=Kind.STREAM)
    assert (second.service, second.within_s, second.session) == (Service.INTERACTIVE, 4, "s")
    assert third == Fault(at_s=9, engine=2, is_up=True)
    assert first.deadline_s(Cost(seconds={1: 10.0, 2: 6.0})) == 31.5
    assert second.deadline_s(Cost(seconds={1: 10.0})) == 6.0


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2 of the trace is not JSON"),
        ("[1]", "line 2 of the trace is not an object"),
        ("{}", "at is missing"),
        ('{"at": -1}', "at is -1"),
        ('{"at": NaN}', "at is nan"),
        ('{"at": 1e300}', "at is 1e+300; it must be no more than 1e+09"),
        ('{"at": 1, "priority": -9' + 300 * "9" + "}", "priority is -1e+301"),
        ("[" * 100_000, "is not JSON"),
        ('{"at": true}', "at is True"),
        ('{"at": 1, "frames": "many"}', "a int was expected"),
        ('{"at": 1, "fames": 3}', "fames is not known; fields are at, model"),
        ('{"at": 1, "kind": "film"}', "'film' is not a valid Kind"),
        ('{"at": 1, "event": "gone"}', "it must be down or up"),
        ('{"at": 1, "event": "down", "frames": 3}', "frames is not known"),
    ],
)
def test_a_wrong_line_is_named(line, told):
    with pytest.raises(InputError, match="line 2") as error:
        read_trace(['{"at": 0}', line])
    assert told in error.value.message


def test_a_trace_without_requests_is_refused():
    with pytest.raises(InputError, match="no requests"):
        read_trace(['{"at": 1, "event": "down"}'])


def test_drawn_traffic_has_the_rates_and_shares_that_were_asked_for():
    text = "poisson:rate=5,mix=17:3/81:1,interactive=0.4,streams=0.5,within=2,slo=4,tenants=2,seconds=2000,seed=7"
    arrivals = list(Poisson.parse(text).arrivals())
    assert len(arrivals) == pytest.approx(10_000, rel=0.03)
    assert all(a.at_s <= b.at_s < 2000 for a, b in pairwise(arrivals))
    share = lambda test: sum(map(test, arrivals)) / len(arrivals)  # noqa: E731
    assert share(lambda a: a.shape.frames == 17) == pytest.approx(0.75, abs=0.02)
    assert share(lambda a: a.service is Service.INTERACTIVE) == pytest.approx(0.4, abs=0.02)
    assert share(lambda a: a.shape.kind is Kind.STREAM) == pytest.approx(0.2, abs=0.02)
    assert share(lambda a: a.tenant == "tenant-0") == pytest.approx(0.5, abs=0.02)
    assert {a.within_s for a in arrivals} == {None, 2.0}
    assert {a.slo for a in arrivals} == {None, 4.0}
    assert arrivals == list(Poisson.parse(text).arrivals())
    assert arrivals != list(Poisson.parse(text.replace("seed=7", "seed=8")).arrivals())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("poisson:", "is not understood"),
        ("poisson:rate", "is not understood"),
        ("poisson:speed=2", "poisson: takes rate, mix"),
        ("poisson:rate=fast", "rate is 'fast'"),
        ("poisson:rate=0", "must be greater than 0"),
        ("poisson:rate=inf", "must be greater than 0"),
        ("poisson:rate=1e6,seconds=1e6", "at most 10,000,000 requests"),
        ("poisson:mix=a/b", "mix is 'a/b'"),
        ("poisson:mix=17:0", "weights greater than 0"),
        ("poisson:interactive=2", "must lie in 0..1"),
        ("poisson:tenants=0", "must be greater than 0"),
    ],
)
def test_wrong_traffic_is_refused(text, told):
    with pytest.raises(InputError) as error:
        Poisson.parse(text)
    assert told in error.value.message
