"""Which windows share a forward, and that nobody waits for ever or is drawn into what happens to others."""

import random
from itertools import groupby, pairwise

import pytest

from reelray.proto.layout import Layout
from reelray.proto.memory_rule import Commit, MemoryRule, PromptSwitch
from reelray.proto.placement import Lending
from reelray.proto.request import PromptChange, RequestId
from reelray.proto.step_plan import StepReport
from reelray.scheduler.batching import Batching
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from tests.support.core_trace import FACTS, Trace
from tests.support.requests import make_recipe, make_request

PLACES = 2  # tokens of a latent frame of 32x16 pixels
RULE = MemoryRule(local=4, sink=1, commit=Commit.LAST_STEP)


def limits(most=3, knee=1024, requests=8, **changes):
    return EngineLimits(
        requests=requests, frame_credit=999, chunks_ahead=99, batching=Batching(most=most, knee_tokens=knee), **changes
    )


def stream(name, *, latent_frames=8, chunk=2, steps=3, guidance=1.0, memory=RULE, **changes):
    recipe = make_recipe(steps=steps, chunk=chunk, guidance=guidance, memory=memory)
    return make_request(name, latent_frames=latent_frames, recipe=recipe, **changes)


def names(plan):
    return "".join(window.request_id for window in plan.windows)


def windows_of(trace):
    plans = []
    while (plan := trace.step()) is not None:
        plans.append(plan)
        for name in trace.requests:
            trace.acknowledge(name)
    return plans


@pytest.mark.parametrize(
    ("knee", "tokens", "most", "chosen"),
    [(1024, 192, 8, 5), (1024, 192, 3, 3), (1024, 1025, 8, 1), (1024, 1024, 8, 1), (1024, 512, 8, 2), (1, 4680, 8, 1)],
)
def test_as_many_share_a_forward_as_the_device_takes_at_the_price_of_one(knee, tokens, most, chosen):
    """By the rule's own words: what each window takes falls until the knee, and no further."""
    rule = Batching(most=most, knee_tokens=knee)
    assert rule.choose(tokens) == chosen

    def each(windows):
        return max(knee, windows * tokens) / windows

    assert rule.gain(chosen, tokens) == pytest.approx(each(1) / each(chosen))
    assert all(each(n) >= each(chosen) for n in range(1, chosen))
    assert rule.gain(8, tokens) >= 1.0


@pytest.mark.parametrize("field", ["most", "knee_tokens"])
def test_nonsense_is_refused(field):
    with pytest.raises(ValueError, match=field):
        Batching(**{field: 0})


def test_streams_share_steps_whatever_chunk_and_step_each_is_at():
    trace = Trace(limits(most=3))
    trace.submit(stream("a"))
    for _ in range(5):
        trace.step()
    for name in "bc":
        trace.submit(stream(name))
    plan = trace.step()
    while names(plan) != "abc":
        plan = trace.step()
    at = {window.request_id: (window.chunk, window.step) for window in plan.windows}
    assert len(set(at.values())) > 1
    trace.run()
    for name in "abc":
        trace.assert_complete(name)


def test_by_default_every_window_has_a_forward_of_its_own():
    trace = Trace(EngineLimits(frame_credit=999))
    for name in "abc":
        trace.submit(stream(name))
    assert all(len(plan.windows) <= 1 for plan in windows_of(trace))


def test_more_streams_than_places_take_turns_chunk_by_chunk():
    trace = Trace(limits(most=2))
    for name in "abc":
        trace.submit(stream(name, latent_frames=12))
    turns = [names(plan) for plan in windows_of(trace) if plan.windows]
    assert {len(turn) for turn in turns[:-3]} == {2}
    begun = [name for name, _ in groupby("".join("".join(sorted(turn)) for turn in turns))]
    assert begun
    for name in "abc":
        trace.assert_complete(name)
        moved = [number for number, turn in enumerate(turns) if name in turn]
        assert max(b - a for a, b in pairwise(moved)) <= 4  # a chunk of the others, and one step


def test_who_needs_other_forwards_has_its_turn_when_those_that_began_are_through():
    """Without that rule one of the others would be amid a chunk for ever, and d would wait."""
    trace = Trace(limits(most=3))
    for name, steps in (("a", 3), ("b", 4), ("c", 5)):
        trace.submit(stream(name, latent_frames=80, steps=steps))
    for _ in range(9):
        trace.step()
    trace.submit(stream("d", latent_frames=40, chunk=4, steps=2))
    turns = [names(trace.step()) for _ in range(60)]
    waits = [len(list(run)) for has, run in groupby("d" in turn for turn in turns) if not has]
    assert max(waits) <= 2 * 5
    assert not any("d" in turn and turn != "d" for turn in turns)


@pytest.mark.parametrize(
    "other",
    [
        {"chunk": 4},
        {"guidance": 3.0},
        {"width": 48},
        {"height": 32},
    ],
    ids=str,
)
def test_what_differs_in_shape_goes_alone(other):
    trace = Trace(limits())
    trace.submit(stream("a"))
    trace.submit(stream("b", **other))
    assert all(len(plan.windows) <= 1 for plan in windows_of(trace))


def test_whole_clips_share_forwards_too():
    trace = Trace(limits())
    for name in "ab":
        trace.submit(make_request(name, recipe=make_recipe(steps=3)))
    turns = [names(plan) for plan in windows_of(trace) if plan.windows]
    assert turns == ["ab"] * 3


def test_a_saturated_device_gets_one_window_at_a_time():
    tokens = 2 * PLACES
    for knee, together in ((2 * tokens - 1, 1), (2 * tokens, 2)):
        trace = Trace(limits(most=4, knee=knee))
        for name in "abcd":
            trace.submit(stream(name))
        assert max(len(plan.windows) for plan in windows_of(trace)) == together


def test_ranks_are_told_how_many_memories_must_lie_beside_each_other():
    core = EngineCore(limits(most=3))
    core.submit(stream("a"), FACTS)
    plan = core.next_step(0.0)
    assert [admit.seats for admit in plan.admits] == [3]
    assert not plan.in_step
    exact = EngineCore(EngineLimits(batching=Batching(most=2, invariant=True)))
    exact.submit(stream("a"), FACTS)
    plan = exact.next_step(0.0)
    assert plan.in_step
    assert [admit.seats for admit in plan.admits] == [2]


def test_what_is_remembered_anew_goes_alone_and_between_the_others():
    rule = MemoryRule(local=4, sink=1, commit=Commit.LAST_STEP, switch=PromptSwitch.RECACHE, switch_frames=2)
    trace = Trace(limits())
    for name in "abc":
        changes = (PromptChange(latent_frame=4, prompt="other"),) if name == "b" else ()
        trace.submit(stream(name, memory=rule, changes=changes))
    plans = windows_of(trace)
    anew = [plan for plan in plans if any(window.recaches for window in plan.windows)]
    assert [names(plan) for plan in anew] == ["b"]
    assert names(plans[plans.index(anew[0]) + 1]) == "abc"


@pytest.mark.parametrize("how", ["cancel", "fail"])
@pytest.mark.parametrize("after", [3, 5, 8])
def test_the_others_go_on_when_one_ends(how, after):
    trace = Trace(limits())
    for name in "abc":
        trace.submit(stream(name))
    for _ in range(after):
        trace.step()
    if how == "cancel":
        trace.cancel(RequestId("b"))
    else:
        while "b" not in trace.ended:
            trace.step(fail=("b",))
    before = len(trace.windows["b"])
    trace.run()
    assert len(trace.windows["b"]) == before
    for name in "ac":
        trace.assert_complete(name)


def test_lanes_of_several_ranks_and_lent_ranks_get_windows_alone():
    lending = Lending(layout=Layout(ulysses=2), apart_step_s=2.0, lent_step_s=1.9, switch_s=9.0)
    for wishes in ({"layouts": (Layout(ulysses=2),)}, {"decode_ranks": 1, "lending": lending}):
        core = EngineCore(limits(), **wishes)
        for name in "ab":
            core.submit(stream(name, memory=None), FACTS)
        plan = core.next_step(0.0)
        assert {admit.seats for admit in plan.admits} == {1}


@pytest.mark.parametrize("seed", range(12))
def test_random_requests_end_and_nobody_waits_for_long(seed):
    rng = random.Random(seed)
    most = rng.choice([2, 3, 4])
    trace = Trace(limits(most=most))
    for number in range(7):
        memory = rng.choice([RULE, RULE, None])
        trace.submit(
            stream(
                f"r{number}",
                latent_frames=rng.choice([4, 8, 10]),
                chunk=rng.choice([2, 2, 2, 4]) if memory else rng.choice([None, 2]),
                steps=rng.randint(1, 4),
                guidance=rng.choice([1.0, 1.0, 3.0]),
                memory=memory,
            )
        )
    moved, step, cancelled = {}, 0, set()
    while (plan := trace.step()) is not None:
        step += 1
        shapes = set()
        for window in plan.windows:
            request = trace.requests[window.request_id]
            guided = request.recipe.guidance.scale != 1.0
            shapes.add((window.latent_frames, request.width, request.height, guided))
            assert step - moved.get(window.request_id, step) <= 7 * 4 + 2  # a chunk of each of the others
            moved[window.request_id] = step
        assert len(shapes) <= 1
        assert len(plan.windows) <= most
        for name in trace.requests:
            trace.acknowledge(name)
        if rng.random() < 0.02:
            name = rng.choice(list(trace.requests))
            trace.cancel(name)
            cancelled.add(name)
    for name in set(trace.requests) - cancelled:
        trace.assert_complete(name)


def test_a_stream_that_remembers_anew_lets_the_others_go_on_before_its_chunk():
    rule = MemoryRule(local=4, sink=1, commit=Commit.LAST_STEP, switch=PromptSwitch.RECACHE, switch_frames=2)
    trace = Trace(limits(most=1))
    trace.submit(stream("a", memory=rule, latent_frames=6, changes=(PromptChange(latent_frame=2, prompt="other"),)))
    trace.submit(stream("b", memory=rule, latent_frames=6))
    turns = [(names(plan), plan.windows[0].recaches) for plan in windows_of(trace) if plan.windows]
    runs = [(name, anew, len(list(run))) for (name, anew), run in groupby(turns)]
    assert runs[:6] == [
        ("a", False, 3),
        ("b", False, 3),
        ("a", True, 1),
        ("b", False, 3),
        ("a", False, 3),
        ("b", False, 3),
    ]


def test_every_lane_of_one_rank_has_a_forward_of_its_own_to_share():
    trace = Trace(limits(most=2), layouts=(Layout(replica=2),))
    for name in "abcd":
        trace.submit(stream(name))
    plans = windows_of(trace)
    assert any(sorted(w.lane for w in plan.windows) == [0, 0, 1, 1] for plan in plans)
    for name in "abcd":
        trace.assert_complete(name)


def test_whoever_was_at_work_when_a_gang_was_lost_goes_alone_until_its_next_commit():
    core = EngineCore(limits(commit_s=1e9, losses=9))
    for name in "abc":
        core.submit(stream(name), FACTS)

    def step():
        plan = core.next_step(0.0)
        core.report(StepReport(sequence=plan.sequence, generation=plan.generation))
        return plan

    while len(step().windows) < 3:
        pass
    lost = core.next_step(0.0)
    assert names(lost) == "abc"
    core.rewind(1)
    later = [step() for _ in range(6)]
    assert {len(plan.windows) for plan in later} == {0, 1}
