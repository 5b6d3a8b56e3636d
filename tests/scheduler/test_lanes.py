"""The rule of the lanes, seen from the plans of a core; every plan is checked by `Trace`."""

import pytest

from reelray.proto.errors import InputError, UnsupportedError
from reelray.proto.layout import Layout, Place
from reelray.proto.recipe import Guidance
from reelray.proto.step_plan import StepReport
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.lanes import NEARLY_DONE, PATIENCE
from reelray.scheduler.limits import EngineLimits
from tests.support.core_trace import FACTS, LANES, Trace
from tests.support.requests import make_recipe, make_request

FOUR, PAIRS, SINGLES = LANES
ROOMY = EngineLimits(requests=8, frame_credit=999, decode_latent_frames=9)


def start(*names, steps=20, limits=ROOMY, layouts=LANES):
    trace = Trace(limits, layouts=layouts)
    submit(trace, *names, steps=steps)
    return trace


def submit(trace, *names, steps=20, **recipe):
    for name in names:
        trace.submit(make_request(name, recipe=make_recipe(steps=steps, **recipe)))


def lanes(plan):
    return {window.request_id: window.lane for window in plan.windows}


@pytest.mark.parametrize(
    ("names", "layout"), [("a", FOUR), ("ab", PAIRS), ("abc", SINGLES), ("abcd", SINGLES), ("abcdef", SINGLES)]
)
def test_every_request_gets_a_lane_and_no_more_are_made(names, layout):
    trace = start(*names)
    first, second = trace.step(), trace.step()
    assert first.layout == second.layout == layout
    assert [admit.lane for admit in first.admits] == [n % layout.replica for n in range(len(names))]
    assert len(second.windows) == min(len(names), layout.replica)
    assert not first.moves


def test_requests_beyond_the_lanes_take_turns_in_them():
    trace = start(*"abcdef", steps=3)
    trace.step()
    assert lanes(trace.step()) == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert lanes(trace.step()) == {"e": 0, "f": 1, "c": 2, "d": 3}
    assert lanes(trace.step()) == {"a": 0, "b": 1, "c": 2, "d": 3}
    trace.run()
    for name in "abcdef":
        trace.assert_complete(name)


def test_a_newcomer_regroups_and_an_end_lets_the_rest_grow():
    trace = start("a")
    for _ in range(4):
        assert trace.step().layout == FOUR
    submit(trace, "b", steps=3)
    plan = trace.step()
    assert (plan.layout, [admit.lane for admit in plan.admits]) == (PAIRS, [1])
    assert [(m.request_id, m.source, m.target) for m in plan.moves] == [("a", Place(layout=FOUR), Place(layout=PAIRS))]
    assert lanes(plan) == {"a": 0}  # it goes on in the very step
    assert lanes(trace.step()) == {"a": 0, "b": 1}
    while "b" not in trace.finished:
        assert not trace.step().moves
    plan = trace.step()
    assert (plan.layout, plan.releases, lanes(plan)) == (FOUR, ("b",), {"a": 0})
    assert [(m.source, m.target) for m in plan.moves] == [(Place(layout=PAIRS), Place(layout=FOUR))]
    trace.run()
    trace.assert_complete("a")


def test_lanes_that_hold_a_request_are_taken_first():
    trace = start("a", "b")
    trace.step()
    submit(trace, "c")
    plan = trace.step()
    assert {m.request_id: m.target.lane for m in plan.moves} == {"a": 0, "b": 2}  # of ranks 0 and 1, and 2 and 3
    assert [admit.lane for admit in plan.admits] == [1]


def test_nobody_is_moved_for_a_request_that_is_nearly_done():
    trace = start("a", steps=4)
    for _ in range(4):
        trace.step()
    submit(trace, "b")
    layouts = []
    while "a" not in trace.finished:
        plan = trace.step()
        layouts.append(plan.layout)
        assert not plan.moves
    assert layouts == [FOUR] * NEARLY_DONE
    assert trace.step().layout == FOUR  # b alone
    submit(trace, "c", steps=1)
    assert trace.step().layout == PAIRS
    trace.run()
    assert trace.core.next_step(0.0) is None


def test_the_last_steps_do_not_grow_back():
    trace = start("a", "b", steps=4)
    trace.step()
    trace.step()
    trace.cancel("b")  # three windows and a piece of a are left
    assert trace.step().layout == FOUR
    trace = start("a", "b", steps=4)
    for _ in range(4):
        trace.step()
    trace.cancel("b")
    plan = trace.step()
    assert (plan.releases, plan.layout, plan.moves) == (("b",), PAIRS, ())
    trace.run()
    trace.assert_complete("a")


def test_an_emptied_lane_is_filled_with_the_youngest_of_the_fullest():
    trace = start(*"abcde")
    trace.step()
    trace.step()
    trace.cancel("c")
    plan = trace.step()
    assert (plan.layout, plan.releases) == (SINGLES, ("c",))
    assert [(m.request_id, m.source.lane, m.target.lane) for m in plan.moves] == [("e", 0, 2)]
    assert lanes(trace.step()) == {"a": 0, "b": 1, "e": 2, "d": 3}
    trace = start(*"abcd")
    submit(trace, "e", steps=1)  # nearly done from the beginning
    trace.step()
    trace.step()
    trace.cancel("c")
    assert [(m.request_id, m.target.lane) for m in trace.step().moves] == [("a", 2)]


def test_a_request_whose_client_rests_gives_up_its_lane_and_comes_back():
    limits = EngineLimits(requests=4, frame_credit=1, decode_latent_frames=1, chunks_ahead=1)
    trace = Trace(limits, layouts=LANES)
    trace.submit(make_request("idle", latent_frames=9, recipe=make_recipe(steps=1, chunk=1)))
    trace.submit(make_request("busy", recipe=make_recipe(steps=90)))
    while trace.step().layout == PAIRS:
        trace.acknowledge("busy")
    after = trace.sequence
    for _ in range(5):
        plan = trace.step()
        assert (plan.layout, lanes(plan), plan.moves) == (FOUR, {"busy": 0}, ())
    assert after > PATIENCE
    assert trace.places["idle"].layout == PAIRS  # nothing was sent for it
    trace.acknowledge("idle")
    plan = trace.step()
    assert plan.layout == PAIRS
    assert [m.request_id for m in plan.moves] == ["busy"]  # the other one lies where it should
    assert {d.request_id for d in plan.decodes} == {"idle"}


def test_a_layout_with_cfg_is_for_guided_requests():
    cfg = Layout(cfg=2, ulysses=2)
    trace = Trace(ROOMY, layouts=(cfg, *LANES))
    submit(trace, "guided", steps=2, guidance=4.0)
    assert trace.step().layout == cfg
    trace.run()
    submit(trace, "plain", steps=4, guidance=1.0)
    assert trace.step().layout == FOUR
    trace.run()
    assert not Guidance(scale=1.0).needs_unconditional
    assert Guidance(scale=1.0, per_step=(1.0, 2.0)).needs_unconditional


def test_one_layout_of_several_lanes_is_never_left():
    pair = Layout(replica=2)
    trace = start(*"abc", layouts=(pair,))
    plans = list(iter(trace.step, None))
    assert {plan.layout for plan in plans} == {pair}
    assert max(len(plan.windows) for plan in plans) == 2


def test_a_core_without_lanes_does_not_speak_of_them():
    for layouts in ((Layout(),), (Layout(ulysses=2),)):
        plans = list(iter(start(*"ab", layouts=layouts).step, None))
        assert {plan.layout for plan in plans} == {None}
        assert max(len(plan.windows) for plan in plans) == 1


def test_after_a_loss_everybody_is_placed_anew():
    core = EngineCore(ROOMY, layouts=LANES)
    for name in "ab":
        core.submit(make_request(name, recipe=make_recipe(steps=9)), FACTS)
    for _ in range(2):
        plan = core.next_step(0.0)
        core.report(StepReport(sequence=plan.sequence, generation=0))
    core.next_step(0.0)
    assert core.rewind(1) == ()
    plan = core.next_step(0.0)
    assert (plan.layout, plan.moves) == (PAIRS, ())
    assert [(a.request.request_id, a.lane) for a in plan.admits] == [("a", 0), ("b", 1)]
    assert core.rewind(2) == ("a", "b")  # their admission was in flight
    core = EngineCore(ROOMY, layouts=LANES)
    for name in "ab":
        core.submit(make_request(name, recipe=make_recipe(steps=9)), FACTS)
    core.next_step(0.0)
    core.rewind(1)
    core.cancel("b")
    plan = core.next_step(0.0)
    assert (plan.layout, plan.moves) == (FOUR, ())  # no rank has anything of it


def test_a_lost_rank_is_no_fault_of_the_other_lanes():
    core = EngineCore(EngineLimits(losses=2), layouts=LANES)
    for name in "ab":
        core.submit(make_request(name, recipe=make_recipe(steps=9)), FACTS)
    for generation in (1, 2):
        plan = core.next_step(0.0)
        core.report(StepReport(sequence=plan.sequence, generation=plan.generation))
        assert lanes(core.next_step(0.0)) == {"a": 0, "b": 1}
        assert core.rewind(generation, lost=[3]) == (("b",) if generation == 2 else ())
    assert core.phase("a") is not None


def test_layouts_that_no_gang_can_have_together_are_refused():
    for layouts, error, words in (
        ((Layout(ulysses=4), Layout(replica=2)), InputError, "2 ranks, ulysses=4 has 4"),
        ((Layout(ulysses=2), Layout(ulysses=2)), InputError, "twice"),
        ((Layout(ulysses=4), Layout(replica=2, pipe=2)), UnsupportedError, "splits the layers"),
    ):
        with pytest.raises(error, match=words):
            EngineCore(layouts=layouts)
    EngineCore(layouts=(Layout(pipe=2, ulysses=2),))
    with pytest.raises(ValueError, match="lanes 0 to 1"):
        Place(layout=Layout(replica=2), lane=2)


def test_a_request_that_finds_no_room_on_its_new_lane_goes_back_and_is_not_brought_there_again():
    trace = start("a")
    for _ in range(4):
        trace.step()
    submit(trace, "b")
    assert trace.step(waiting="a").layout == PAIRS
    back = trace.step()
    assert (back.layout, [move.request_id for move in back.moves]) == (FOUR, ["a", "b"])
    plans = [trace.step() for _ in range(20)]
    assert {plan.layout for plan in plans} == {FOUR}
    trace.run()
    for name in "ab":
        trace.assert_complete(name)


def test_a_late_piece_counts_though_its_request_finds_no_room_where_it_is_moved():
    core, decoded = EngineCore(ROOMY, layouts=LANES), []

    def step(late=(), **more):
        if (plan := core.next_step(0.0)) is not None:
            assert plan.sequence < 200, "the core waits for a piece that has come"
            more["late"] = late if plan.decodes else ()
            core.report(StepReport(sequence=plan.sequence, generation=plan.generation, **more))
            decoded.extend(piece for piece in plan.decodes if piece.request_id == "a")
        return plan

    core.submit(make_request("a", recipe=make_recipe(steps=20, chunk=3), latent_frames=9), FACTS)
    while not step(late=("a",)).decodes:
        pass
    core.submit(make_request("b", recipe=make_recipe(steps=20)), FACTS)
    assert step(waiting=("a",), arrived=("a",)).moves
    while step() is not None:
        pass
    assert [piece.first_latent_frame for piece in decoded] == [0, 3, 6]


def test_a_request_without_room_anywhere_waits_until_another_one_is_gone():
    trace = start("a")
    for _ in range(4):
        trace.step()
    submit(trace, "b", steps=8)
    plans = []
    while "b" not in trace.finished:
        plans.append(trace.step(waiting="a"))
    assert not any("a" in lanes(plan) for plan in plans[1:])
    trace.run()
    for name in "ab":
        trace.assert_complete(name)
