"""Requests that follow each other through ranks that split the layers."""

import pytest

from reelray.proto.errors import UnsupportedError
from reelray.proto.layout import Layout
from reelray.proto.patching import Patching
from reelray.proto.step_plan import Commit, StepReport
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from tests.support.core_trace import ALONE, FACTS, LANES, Trace
from tests.support.requests import make_recipe, make_request


def names_of(plan):
    return [window.request_id for window in plan.windows]


def test_ranks_that_split_the_layers_get_a_window_of_as_many_requests():
    trace = Trace(EngineLimits(frame_credit=999), layouts=(Layout(pipe=2),))
    for name in "abc":
        trace.submit(make_request(name, recipe=make_recipe(steps=4)))
    moved = [names_of(plan) for plan in iter(trace.step, None) if plan.windows]
    assert moved == [["a", "b"], ["c", "a"], ["b", "c"]] * 2
    for name in "abc":
        trace.assert_complete(name)


def test_requests_in_a_line_commit_each_for_themselves():
    core = EngineCore(EngineLimits(commit_s=1000.0), layouts=(Layout(pipe=2),))
    for name, chunk in (("a", 1), ("b", 2)):
        core.submit(make_request(name, latent_frames=2, recipe=make_recipe(steps=1 + chunk, chunk=chunk)), FACTS)
    seen = []
    while (plan := core.next_step(0.0)) is not None:
        seen.append((names_of(plan), list(plan.commits)))
        core.report(StepReport(sequence=plan.sequence, generation=plan.generation))
    assert seen[1:5] == [(["a", "b"], []), (["a", "b"], ["a"]), (["a", "b"], ["b"]), (["a"], ["a"])]


def test_a_failure_or_cancel_in_a_line_leaves_the_others_in_it():
    trace = Trace(EngineLimits(frame_credit=999), layouts=(Layout(pipe=3),))
    for name in "abc":
        trace.submit(make_request(name))
    trace.step()
    assert names_of(trace.step(fail={"b"}, during=lambda: trace.cancel("c"))) == ["a", "b", "c"]
    trace.run()
    assert trace.finished == ["a"]
    trace.assert_complete("a")
    assert len(trace.windows["b"]) == len(trace.windows["c"]) == 1


def test_whoever_was_there_when_a_gang_was_lost_goes_alone():
    """Would fail if a request that ends its ranks took those along that went with it."""
    core = EngineCore(EngineLimits(losses=2), layouts=(Layout(pipe=2),))

    def moved():
        plan = core.next_step(0.0)
        return names_of(plan), lambda: core.report(StepReport(sequence=plan.sequence, generation=plan.generation))

    for name in "ab":
        core.submit(make_request(name, latent_frames=2, recipe=make_recipe(steps=40)), FACTS)
    moved()[1]()
    assert moved()[0] == ["a", "b"]
    core.rewind(1)
    for name in "cd":
        core.submit(make_request(name, latent_frames=2, recipe=make_recipe(steps=40)), FACTS)
    turns = []
    for _ in range(7):
        names, done = moved()
        turns.append(names)
        done()
    assert turns == [[], ["a"], ["b"], ["c", "d"], ["a"], ["b"], ["c", "d"]]
    assert moved()[0] == ["a"]
    assert core.rewind(2) == ("a",)
    assert core.phase("b") is not None


def test_who_has_come_further_than_the_loss_goes_with_others_again():
    core = EngineCore(EngineLimits(commit_s=1000.0, frame_credit=999), layouts=(Layout(pipe=2),))

    def move():
        plan = core.next_step(0.0)
        commits = tuple(Commit(request_id=name, parts={}) for name in plan.commits)
        core.report(StepReport(sequence=plan.sequence, generation=plan.generation, commits=commits))
        return names_of(plan)

    for name in "ab":
        core.submit(make_request(name, latent_frames=4, recipe=make_recipe(steps=2, chunk=1)), FACTS)
    move()
    core.next_step(0.0)
    core.rewind(1)
    assert [move() for _ in range(7)] == [[], ["a"], ["b"], ["a"], ["b"], ["a", "b"], ["a", "b"]]


def test_patches_need_ranks_that_split_the_layers_and_a_whole_clip():
    patched = make_request("a", patching=Patching(patches=2))
    EngineCore(layouts=(Layout(cfg=2, pipe=2),)).submit(patched, FACTS)
    for layouts, words in (
        (ALONE, "does not split the layers"),
        (LANES, "does not split the layers"),
        ((Layout(pipe=2, ulysses=2),), "splits the tokens"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            EngineCore(layouts=layouts).submit(patched, FACTS)
    stream = make_request("a", recipe=make_recipe(chunk=2), patching=Patching(patches=2))
    with pytest.raises(UnsupportedError, match="chunk by chunk"):
        EngineCore(layouts=(Layout(pipe=2),)).submit(stream, FACTS)
