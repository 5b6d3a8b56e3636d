"""Decode ranks that help to denoise: when it pays by predicted times, and what the plans then say."""

from dataclasses import replace

import pytest

from reelray.proto.errors import InputError, UnsupportedError
from reelray.proto.layout import Layout
from reelray.proto.memory_rule import MemoryRule
from reelray.proto.placement import Lending, Placement
from reelray.proto.step_plan import Crew
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.lending import pays_to_lend
from reelray.scheduler.limits import EngineLimits
from tests.support.crew_trace import Crews
from tests.support.requests import make_recipe, make_request

ALL = Layout(ulysses=2)
WINS = Lending(layout=ALL, apart_step_s=2.0, lent_step_s=1.5, switch_s=3.0)
LOSES = replace(WINS, lent_step_s=2.1)


def a_request(name="a", *, steps=10, chunk=None, latent_frames=6, guidance=3.0):
    recipe = make_recipe(steps=steps, chunk=chunk, guidance=guidance)
    return make_request(name, latent_frames=latent_frames, recipe=recipe)


def trace(lending, request, limits=None, *, decode_steps=0):
    """Render alone; returns (chunk, step, layout, whether it joined) of every window of the crew that denoises.

    A decode lasts as long as `decode_steps` denoise steps.
    """
    crews = Crews(limits or EngineLimits(frame_credit=999), lending=lending)
    crews.submit(request)
    since = 0
    while crews.issue() or crews.in_flight:
        decoding = crews.in_flight.get(Crew.DECODE)
        if decoding is None or not decoding.decodes or since >= decode_steps or Crew.DENOISE not in crews.in_flight:
            crews.advance(Crew.DECODE)
            since = 0
        since += crews.advance(Crew.DENOISE) is not None
    crews.assert_complete("a")
    denoise = [plan for plan in crews.plans if plan.crew is Crew.DENOISE]
    return [(w.chunk, w.step, plan.layout == ALL, bool(plan.joins)) for plan in denoise for w in plan.windows]


def test_the_decision_is_the_time_gained_against_the_price_to_join():
    request = a_request()
    for steps_left, joins, wanted in ((1, False, True), (6, True, False), (7, True, True)):
        assert pays_to_lend(WINS, request, steps_left=steps_left, joins=joins) is wanted
        assert not pays_to_lend(LOSES, request, steps_left=steps_left, joins=joins)
    assert not pays_to_lend(replace(WINS, lent_step_s=2.0), request, steps_left=9, joins=False)


def test_branches_are_shared_only_where_there_are_two():
    split = replace(WINS, layout=Layout(cfg=2))
    assert pays_to_lend(split, a_request(), steps_left=5, joins=False)
    assert not pays_to_lend(split, a_request(guidance=1.0), steps_left=5, joins=False)


def test_who_remembers_is_helped_by_nobody():
    request = a_request(chunk=2, guidance=1.0)
    remembers = replace(request, recipe=replace(request.recipe, memory=MemoryRule(local=4)))
    assert pays_to_lend(WINS, request, steps_left=9, joins=False)
    assert not pays_to_lend(WINS, remembers, steps_left=9, joins=False)


def test_a_whole_clip_is_denoised_by_all_where_that_wins_and_only_there():
    assert trace(WINS, a_request()) == [(0, step, True, False) for step in range(10)]
    for lending in (LOSES, None):
        assert trace(lending, a_request()) == [(0, step, False, False) for step in range(10)]


def test_all_denoise_the_first_chunk_and_those_that_decode_leave_when_it_is_clean():
    windows = trace(WINS, a_request(steps=4, chunk=2), decode_steps=99)
    assert windows == [(0, step, True, False) for step in range(4)] + [
        (chunk, step, False, False) for chunk in (1, 2) for step in range(4)
    ]


def test_they_come_back_in_the_middle_of_a_chunk_if_enough_of_it_is_left():
    request = a_request(steps=10, chunk=2, latent_frames=4)
    late = trace(WINS, request, decode_steps=5)
    assert [window[2] for window in late[10:]] == [False] * 10  # four left gain 2 s, and to join takes 3 s
    soon = trace(WINS, request, decode_steps=2)[10:]
    assert [window[2] for window in soon] == [step >= 2 for step in range(10)]
    assert [window[3] for window in soon] == [step == 2 for step in range(10)]  # they join once


@pytest.mark.parametrize("first", list(Crew))
def test_a_chunk_that_all_made_is_delivered_at_once_whoever_reports_first(first):
    crews = Crews(EngineLimits(frame_credit=999), lending=WINS)
    crews.submit(a_request(steps=4, chunk=2))
    while not any(window.last for plan in crews.in_flight.values() for window in plan.windows):
        for crew in Crew:
            crews.advance(crew)
        crews.issue()
    crews.advance(first)
    assert crews.issue() == []
    for crew in Crew:
        crews.advance(crew)
    assert [len(plan.deliveries) for plan in crews.issue()] == [1, 1]


def test_frames_that_the_client_does_not_take_keep_them_apart():
    crews = Crews(EngineLimits(frame_credit=1, chunks_ahead=2), lending=WINS)
    crews.submit(a_request(steps=2, chunk=1))
    while crews.issue() or crews.in_flight:
        for crew in Crew:
            crews.advance(crew)
    assert crews.lent == 2  # the first chunk
    assert max(w.chunk for plan in crews.plans for w in plan.windows) == 3


def test_after_a_loss_all_go_on_with_the_chunk_that_was_written_down():
    crews = Crews(EngineLimits(frame_credit=999, commit_s=0.5), lending=WINS)
    crews.submit(a_request())
    while sum(len(plan.windows) for plan in crews.plans if plan.crew is Crew.DENOISE) < 5:
        crews.issue()
        for crew in Crew:
            crews.advance(crew)
    crews.lose([0])
    crews.run()
    crews.assert_complete("a")
    again = [p for p in crews.plans if p.generation == 2 and p.crew is Crew.DENOISE and p.windows]
    assert again[0].windows[0].step > 2
    assert all(plan.layout == ALL and not plan.joins for plan in again)


@pytest.mark.parametrize(
    ("layout", "decode_ranks", "lent", "error"),
    [
        (Layout(), 1, Layout(ulysses=3), InputError),
        (Layout(), 1, Layout(replica=2), InputError),
        (Layout(), 0, Layout(), InputError),
        (Layout(pipe=2), 1, Layout(ulysses=3), UnsupportedError),
    ],
)
def test_what_cannot_be_lent_is_refused(layout, decode_ranks, lent, error):
    lending = replace(WINS, layout=lent)
    with pytest.raises(error):
        EngineCore(layouts=(layout,), decode_ranks=decode_ranks, lending=lending)
    with pytest.raises(error):
        Placement(layout=layout, decode_ranks=decode_ranks, lending=lending)
