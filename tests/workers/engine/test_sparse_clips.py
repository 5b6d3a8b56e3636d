"""Whole clips whose self-attention is sparse: what is left out, what is said of it, and what it does not go with."""

from dataclasses import replace

import numpy as np
import pytest

from reelray.proto.errors import UnsupportedError
from reelray.proto.layout import Layout
from reelray.proto.patching import Patching
from reelray.proto.recipe import Guidance, Schedule
from reelray.proto.sparsity_text import parse_sparsity
from reelray.proto.step_plan import StepReport
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import Batching, EngineLimits
from reelray.workers.acceleration.sparsity import break_even
from reelray.workers.acceleration.sparsity.break_even import Measured
from reelray.workers.acceleration.sparsity.pooled import BLOCK_MEAN
from reelray.workers.engine import sparse_request
from reelray.workers.engine.rank import Rank
from reelray.workers.models.registry import open_checkpoint
from tests.support.live_cases import live_request
from tests.support.render_on import render_on
from tests.support.requests import make_facts, make_recipe, make_request

STEPS, LAYERS = 4, 2
SIZE = {"width": 128, "height": 128, "latent_frames": 5}  # 5 x 8 x 8 tokens


@pytest.fixture(scope="module")
def model(tiny_t2v):
    found = open_checkpoint(tiny_t2v, device="cpu")
    assert found.facts.layers == LAYERS
    return found


def clip(sparsity=None, *, guidance=3.0, **changes):
    recipe = replace(
        make_recipe(steps=STEPS), schedule=Schedule(steps=STEPS, shift=3.0), guidance=Guidance(scale=guidance)
    )
    policy = None if sparsity is None else parse_sparsity(sparsity)
    return make_request("a", recipe=recipe, sparsity=policy, **(SIZE | changes))


class Told:
    """A rank that remembers what it told of its attention."""

    def __init__(self, model):
        self.rank, self.uses = Rank(model), []

    def describe(self):
        return self.rank.describe()

    def execute(self, plan):
        report = self.rank.execute(plan)
        self.uses += [use for _, use in report.uses]
        return report


def render(model, request):
    told = Told(model)
    video = np.frombuffer(render_on(told, request), np.uint8)
    return video.astype(int), told.uses


@pytest.fixture(scope="module")
def dense(model):
    return render(model, clip())[0]


@pytest.mark.parametrize("order", ["auto", "frames", "curve", "tiles"])
def test_a_clip_that_attends_every_block_is_the_dense_one(model, dense, order):
    every = f"sub_block,density=1,dense_share=0,dense_layers=0,forced=yes,rows=64,order={order}"
    video, uses = render(model, clip(every))
    assert np.abs(video - dense).max() <= 1
    assert (video != dense).mean() <= 1e-3
    assert len(uses) == STEPS
    assert sum(use.calls for use in uses) == 2 * STEPS * LAYERS
    assert all((use.dense, use.attended) == (0, use.calls) for use in uses)


def test_what_is_left_out_changes_the_clip_and_is_counted(model, dense):
    policy = "block_mean,density=0.4,dense_share=0.5,dense_layers=1,forced=yes,rows=64,first_frame=no,neighbours=-1"
    video, uses = render(model, clip(policy))
    assert (video != dense).any()
    assert [use.calls for use in uses] == [2 * LAYERS] * STEPS
    # Half of the way from noise to picture is dense, and the first layer always.
    assert [use.dense for use in uses] == [4, 4, 2, 2]
    assert [use.attended for use in uses] == pytest.approx([0, 0, 0.8, 0.8])  # 2 of 5 blocks in two calls
    assert all(use.refusal == "" for use in uses)
    assert (render(model, clip(policy))[0] == video).all()


def test_where_it_was_not_measured_to_pay_all_is_dense_and_it_is_said(model, dense, monkeypatch):
    monkeypatch.setattr(break_even, "MEASURED", ())
    video, uses = render(model, clip("sub_block,density=0.3"))
    assert (video == dense).all()
    assert [(use.calls, use.dense) for use in uses] == [(2 * LAYERS, 2 * LAYERS)] * STEPS
    assert all("not measured to be faster for 320 tokens on cpu" in use.refusal for use in uses)


@pytest.mark.parametrize(("density", "refuses"), [(0.3, False), (0.5, True)])
def test_measurements_decide_where_it_pays(model, dense, monkeypatch, density, refuses):
    monkeypatch.setattr(break_even, "MEASURED", (Measured(device="cpu", tokens=300, density=0.4),))
    video, uses = render(model, clip(f"sub_block,density={density},dense_share=0,rows=64"))
    assert (video == dense).all() == refuses
    assert all(("is not below 0.4" in use.refusal) == refuses for use in uses)


def test_a_step_that_would_not_pay_is_dense(model, monkeypatch):
    monkeypatch.setattr(break_even, "MEASURED", (Measured(device="cpu", tokens=300, density=0.5),))
    policy = "block_mean,density=0.6/0.4,dense_share=0,dense_layers=0,rows=64,first_frame=no,neighbours=-1"
    _, uses = render(model, clip(policy))
    assert [use.dense for use in uses] == [4, 4, 0, 0]
    assert all(use.refusal == "" for use in uses)
    for other in ("block_mean,mass=0.9", "frame_diagonal"):  # nobody knows before
        _, uses = render(model, clip(f"{other},dense_share=0,dense_layers=0,rows=64"))
        assert [use.dense for use in uses] == [0] * STEPS


def test_a_step_without_guidance_evaluates_half(model):
    _, uses = render(model, clip("sub_block,density=0.4,dense_share=0,forced=yes,rows=64", guidance=1.0))
    assert [use.calls for use in uses] == [LAYERS] * STEPS


def test_cubes_that_are_not_full_show_no_padding(model, dense):
    policy = "block_mean,density=1,order=cubes,rows=64,dense_share=0,dense_layers=1,forced=yes"
    video, _ = render(model, clip(policy))
    assert np.abs(video - dense).max() <= 1


@pytest.mark.parametrize(
    ("request_", "layouts", "words"),
    [
        (clip("sub_block"), (Layout(ring=2),), "ulysses in place of ring"),
        (replace(clip("sub_block"), patching=Patching(patches=2)), (Layout(pipe=2),), "do not go together"),
        (replace(live_request("keep"), sparsity=parse_sparsity("sub_block")), (Layout(),), "for whole clips"),
        (replace(clip("sub_block"), recipe=make_recipe(chunk=2)), (Layout(),), "for whole clips"),
        (clip("vsa,rows=64"), (Layout(),), "vsa takes a checkpoint that was trained with it"),
    ],
)
def test_what_it_does_not_go_with_is_refused(request_, layouts, words):
    core = EngineCore(EngineLimits(), layouts=layouts)
    with pytest.raises(UnsupportedError) as raised:
        core.submit(request_, make_facts())
    assert words in raised.value.message


def test_clips_are_not_batched_with_others():
    core = EngineCore(EngineLimits(batching=Batching(most=4, knee_tokens=10**9)))
    facts = make_facts()
    core.submit(clip("sub_block,forced=yes"), facts)
    core.submit(replace(clip(), request_id="b"), facts)
    plan = core.next_step(0.0)
    while not plan.windows:
        core.report(StepReport(sequence=plan.sequence, generation=0))
        plan = core.next_step(0.0)
    assert len(plan.windows) == 1


def test_a_clip_goes_on_with_the_same_frames(model):
    """What is written down after a step is all that a sparse clip needs."""
    request = clip("sub_block,density=0.4,dense_share=0,forced=yes,rows=64")
    whole = render(model, request)[0]
    core = EngineCore(EngineLimits(commit_s=0.5))
    first, video = Rank(model), b""
    core.submit(request, model.facts)
    for now in range(4):
        core.report(first.execute(core.next_step(float(now))))
    core.rewind(1, [0])
    again = Rank(model, generation=1)
    windows = 0
    while (plan := core.next_step(5.0)) is not None:
        report = again.execute(plan)
        windows += len(plan.windows)
        core.report(report)
        for frames in report.frames:
            video += frames.data
            core.acknowledge(request.request_id, frames.count)
    assert windows < STEPS
    assert (np.frombuffer(video, np.uint8) == whole).all()


class Counting:
    """A router that counts."""

    def __init__(self):
        self.calls = 0

    def route(self, *parts, **more):
        self.calls += 1
        return BLOCK_MEAN.route(*parts, **more)


@pytest.mark.parametrize(
    ("more", "routes"),
    [
        ("", 4),
        (",refresh=2", 2),
        (",refresh=2,least_recall=0.01", 2),
        (",refresh=4", 1),
    ],
)
def test_lists_may_be_kept_from_step_to_step(model, monkeypatch, more, routes):
    router = Counting()
    monkeypatch.setattr(sparse_request, "make_router", lambda _: router)
    policy = "block_mean,density=0.4,dense_share=0,dense_layers=0,forced=yes,rows=64"
    _, uses = render(model, clip(policy + more))
    assert sum(use.calls - use.dense for use in uses) == 2 * STEPS * LAYERS
    assert router.calls == routes * 2 * LAYERS
