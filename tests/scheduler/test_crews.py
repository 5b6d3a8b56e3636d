"""The core with ranks that only decode: two crews, on any schedule, whatever fails or is lost."""

import random

import pytest

from reelray.proto.errors import UnsupportedError
from reelray.proto.layout import Layout
from reelray.proto.placement import Lending
from reelray.proto.step_plan import Crew, StepReport
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from tests.support.crew_trace import Crews
from tests.support.requests import make_recipe, make_request, random_request

ROOMY = EngineLimits(frame_credit=999)


def a_stream(name="a", *, steps=4, chunk=2, latent_frames=8, **changes):
    return make_request(name, latent_frames=latent_frames, recipe=make_recipe(steps=steps, chunk=chunk), **changes)


def denoise_until_held(crews):
    """Let the crew that denoises go on while nothing is decoded."""
    moved = []
    while True:
        crews.issue()
        plan = crews.advance(Crew.DENOISE)
        if plan is None:
            return moved
        moved += plan.windows


def test_windows_move_while_a_piece_is_decoded_as_far_as_the_queue_lets_them():
    crews = Crews(EngineLimits(frame_credit=999, chunks_ahead=2))
    crews.submit(a_stream(steps=3, chunk=1))
    while not any(plan.decodes for plan in crews.issue()):
        crews.advance(Crew.DENOISE)
        crews.advance(Crew.DECODE) if crews.in_flight.get(Crew.DECODE) else None
    moved = denoise_until_held(crews)
    # chunk 0 is in the decoder; chunks 1 and 2 may wait for it, the next one is held back
    assert {window.chunk for window in moved} == {1, 2}
    assert len(moved) == 6
    crews.advance(Crew.DECODE)
    assert {window.chunk for window in denoise_until_held(crews)} == {3}


def test_the_slower_decode_never_waits_for_a_step():
    crews = Crews(EngineLimits(frame_credit=999, chunks_ahead=2))
    crews.submit(a_stream(steps=2, chunk=1, latent_frames=9))
    idle, decoded = [], 0
    while True:
        denoise_until_held(crews)
        plan = crews.advance(Crew.DECODE)
        crews.issue()
        if plan is not None and plan.decodes:
            decoded += 1
            idle.append(Crew.DECODE not in crews.in_flight)
        if plan is None and not crews.in_flight:
            break
    assert decoded == 9
    assert not any(idle[:-1])  # the next chunk was clean, and delivered at once


def test_a_slow_client_holds_back_the_decoder_and_then_the_windows():
    crews = Crews(EngineLimits(frame_credit=4, decode_latent_frames=1, chunks_ahead=1))
    crews.submit(a_stream(steps=2, chunk=1))
    while crews.issue() or crews.in_flight:
        for crew in Crew:
            crews.advance(crew)
    assert crews.owed["a"] == 1  # the second piece would be four frames more than the credit
    assert max(w.chunk for plan in crews.plans for w in plan.windows) == 2
    crews.acknowledge("a")
    crews.run()
    crews.assert_complete("a")


def test_an_idle_crew_hears_of_nothing():
    crews = Crews(ROOMY)
    crews.submit(a_stream(steps=9, chunk=None))
    for _ in range(6):
        crews.issue()
        crews.advance(Crew.DECODE)
        crews.advance(Crew.DENOISE)
    assert [bool(plan.admits) for plan in crews.plans if plan.crew is Crew.DECODE] == [True]


def test_clean_latents_are_not_passed_by():
    crews = Crews(EngineLimits(frame_credit=999, decode_latent_frames=1, chunks_ahead=9))
    crews.submit(a_stream("a", steps=1, chunk=8))
    crews.submit(a_stream("b", steps=3, chunk=1))
    order = []
    for _ in range(200):
        crews.issue()
        # the windows of one step end while a piece is decoded, and the other way round: never both at once
        crews.advance(Crew.DENOISE)
        crews.issue()
        plan = crews.advance(Crew.DECODE)
        order += [decode.request_id for decode in plan.decodes] if plan else []
    first = order.index("b")
    assert order.count("a") == order.count("b") == 8
    assert "a" in order[first:]  # b did not have to wait for all of a


def test_a_failure_of_either_crew_ends_the_request_once_and_frees_both():
    for crew in Crew:
        crews = Crews(EngineLimits(decode_latent_frames=1, frame_credit=999))
        crews.submit(a_stream("a"))
        crews.submit(a_stream("b"))
        while not any(plan.decodes and plan.decodes[0].request_id == "a" for plan in crews.in_flight.values()):
            crews.issue()
            crews.advance(Crew.DENOISE)
            crews.issue()
            if not crews.in_flight.get(Crew.DECODE) or not crews.in_flight[Crew.DECODE].decodes:
                crews.advance(Crew.DECODE)
        while not any(w.request_id == "a" for p in crews.in_flight.values() for w in p.windows):
            crews.issue()
            if not any(w.request_id == "a" for p in crews.in_flight.values() for w in p.windows):
                crews.advance(Crew.DENOISE)
        crews.advance(crew, fail=("a",))
        assert crews.failed == ["a"]
        crews.run()
        assert crews.failed == ["a"]
        assert crews.finished == ["b"]
        crews.assert_complete("b")
        assert crews.held == {Crew.DENOISE: {}, Crew.DECODE: {}}


def test_a_request_that_one_crew_has_not_heard_of_is_not_released_there():
    crews = Crews(ROOMY)
    crews.submit(a_stream("a", steps=1, chunk=1))
    for _ in range(3):
        crews.issue()
        crews.advance(Crew.DENOISE)
        crews.advance(Crew.DECODE)
    crews.issue()
    assert crews.in_flight[Crew.DECODE].decodes
    crews.submit(a_stream("b"))
    crews.advance(Crew.DENOISE)
    crews.issue()
    assert [admit.request.request_id for admit in crews.in_flight[Crew.DENOISE].admits] == ["b"]
    crews.cancel("b")
    crews.run()  # the crews refuse to forget what they do not hold
    assert crews.finished == ["a"]


def test_an_id_stays_taken_while_the_other_crew_works_on_it():
    crews = Crews(ROOMY)
    crews.submit(a_stream("a", steps=1, chunk=1, latent_frames=2))
    while not any(plan.decodes for plan in crews.issue()):
        for crew in Crew:
            crews.advance(crew)
    assert crews.in_flight[Crew.DENOISE].windows
    crews.cancel("a")
    crews.advance(Crew.DENOISE)
    assert crews.core.phase("a") is not None
    crews.advance(Crew.DECODE)
    assert crews.core.phase("a") is None


@pytest.mark.parametrize(("rank", "blamed"), [(1, "b"), (2, "a")])
def test_only_the_crew_of_a_lost_rank_is_blamed(rank, blamed):
    crews = Crews(EngineLimits(losses=1, decode_latent_frames=1, frame_credit=999), layout=Layout(ulysses=2))
    crews.submit(a_stream("a", steps=1, chunk=None))
    crews.submit(a_stream("b", steps=40, chunk=None))
    while not any(plan.decodes for plan in crews.issue()):
        for crew in Crew:
            crews.advance(crew)
    crews.advance(Crew.DENOISE)
    crews.issue()
    assert [w.request_id for w in crews.in_flight[Crew.DENOISE].windows] == ["b"]
    assert [d.request_id for d in crews.in_flight[Crew.DECODE].decodes] == ["a"]
    assert crews.lose(lost=[rank]) == (blamed,)
    crews.run()
    assert crews.finished == ["b" if blamed == "a" else "a"]


def test_a_report_of_the_other_crew_is_no_answer():
    crews = Crews(ROOMY)
    crews.submit(a_stream())
    crews.issue()
    crews.advance(Crew.DECODE)
    with pytest.raises(Exception, match="not in flight"):
        crews.core.report(StepReport(sequence=0, generation=1, crew=Crew.DECODE))


def test_what_cannot_stand_beside_decode_ranks_is_refused():
    for layouts in ((Layout(replica=2),), (Layout(ulysses=2), Layout(ring=2))):
        with pytest.raises(UnsupportedError, match="decode ranks take the latents of one lane"):
            EngineCore(layouts=layouts, decode_ranks=1)
    with pytest.raises(ValueError, match="decode_ranks is -1"):
        EngineCore(decode_ranks=-1)


@pytest.mark.parametrize("seed", range(300))
def test_any_schedule_keeps_every_invariant(seed):
    rng = random.Random(seed)
    limits = EngineLimits(
        requests=rng.randint(1, 4),
        frame_credit=rng.randint(1, 12),
        chunks_ahead=rng.randint(1, 3),
        decode_latent_frames=rng.randint(1, 3),
        commit_s=rng.choice([None, 0.5, 3.0, 1000.0]),
        losses=99,
    )
    switch_s = rng.choice([0.0, 2.5, 99.0])
    lending = Lending(layout=Layout(ulysses=2), apart_step_s=2.0, lent_step_s=1.0, switch_s=switch_s)
    crews = Crews(limits, lending=rng.choice([None, lending]))
    waiting = [f"r{i}" for i in range(rng.randint(1, 5))]
    names = list(waiting)
    hasty = rng.choice([0.1, 0.5, 0.9])  # how often the crew that denoises is the faster one
    for _ in range(300):
        action = rng.random()
        if waiting and action < 0.1:
            crews.submit(random_request(rng, waiting.pop()))
        elif action < 0.12:
            crews.cancel(rng.choice(names))
        elif action < 0.25:
            crews.acknowledge(rng.choice(names))
        elif action < 0.26:
            crews.lose(rng.choice([(), (0,), (1,)]))
        else:
            crews.issue()
            fail = {rng.choice(names)} if rng.random() < 0.01 else ()
            crews.advance(Crew.DENOISE if rng.random() < hasty else Crew.DECODE, fail)
    for name in waiting:
        crews.submit(a_stream(name))
    crews.run()
    assert crews.held == {Crew.DENOISE: {}, Crew.DECODE: {}}
    assert crews.ended == set(names)
    for name in crews.finished:
        crews.assert_complete(name)
    moved = any(plan.windows for plan in crews.plans)
    lent = any(plan.layout == Layout(ulysses=2) for plan in crews.plans)
    assert lent == (crews.lending is not None and moved)  # whoever moves first finds nothing to decode
