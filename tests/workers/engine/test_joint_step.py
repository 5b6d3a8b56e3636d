"""Streams whose windows share forwards, beside each alone: different prompts, chunks, steps, lengths and memories."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from reelray.proto.chunking import Chunking
from reelray.proto.events import Stage
from reelray.proto.memory_rule import Commit, MemoryRule, PromptSwitch
from reelray.proto.recipe import Guidance, Recipe, Schedule, Solver
from reelray.proto.request import PromptChange, RequestId
from reelray.proto.step_plan import StepPlan
from reelray.scheduler.batching import Batching
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.held_request import HeldRequest
from reelray.workers.engine.open_window import OpenWindow
from reelray.workers.engine.rank import Rank
from reelray.workers.memory.pool import PagePool
from reelray.workers.models.registry import open_checkpoint
from tests.support.pages_left import assert_nothing_stays
from tests.support.requests import make_request

FEW = Schedule(solver=Solver.X0_RENOISE, timesteps=(1000.0, 500.0), shift=5.0)
MORE = Schedule(solver=Solver.X0_RENOISE, timesteps=(1000.0, 820.0, 357.14))
CASES = {
    "clean pass": (MemoryRule(local=4, sink=1, switch=PromptSwitch.RECACHE, switch_frames=4), Guidance(scale=1.0)),
    "last step, guided": (MemoryRule(local=4, sink=1, commit=Commit.LAST_STEP), Guidance(scale=3.0)),
    "every step": (MemoryRule(local=4, sink=1, commit=Commit.EVERY_STEP), Guidance(scale=1.0)),
    "whole clips in rounds": (None, Guidance(scale=2.0)),
}
PROMPTS = {"a": "a red circle", "b": "the green square moves right on a blue background", "c": "a"}


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cpu")


def request_of(case, name, schedule=None):
    """Each has another prompt, seed and length; b has other sigmas, and its prompt changes."""
    memory, guidance = CASES[case]
    recipe = Recipe(
        name="stream",
        schedule=schedule or (MORE if name == "b" and memory and memory.commit is not Commit.EVERY_STEP else FEW),
        guidance=guidance,
        chunking=Chunking(latent_frames=2),
        memory=memory,
    )
    changes = (PromptChange(latent_frame=4, prompt="a red star"),) if name == "b" else ()
    length = {"a": 10, "b": 8, "c": 8}[name]
    return make_request(
        name, recipe=recipe, width=48, height=32, prompt=PROMPTS[name], latent_frames=length,
        seed=ord(name), changes=changes,
    )  # fmt: skip


class Latents:
    """The clean latents of each request."""

    def __init__(self, monkeypatch):
        self.of = {}
        whole = HeldRequest.hand_on

        def hand_on(held, first, latents_1CTHW):
            self.of.setdefault(held.request.request_id, []).append(latents_1CTHW.clone())
            whole(held, first, latents_1CTHW)

        monkeypatch.setattr(HeldRequest, "hand_on", hand_on)

    def take(self):
        found, self.of = {name: torch.cat(parts, 2) for name, parts in self.of.items()}, {}
        return found


@pytest.fixture
def latents(monkeypatch):
    return Latents(monkeypatch)


def run(model, arrivals, batching, *, after=None):
    """Streams that arrive at steps; returns the rank, the plans and the reports."""
    core, rank, plans, reports = EngineCore(EngineLimits(batching=batching)), Rank(model), [], []
    waiting = dict(arrivals)
    while True:
        for request, at in arrivals.items():
            if request in waiting and at <= len(plans):
                core.submit(request, model.facts)
                del waiting[request]
        plan = core.next_step(0.0)
        if plan is None:
            break
        reports.append(rank.execute(plan))
        plans.append(plan)
        core.report(reports[-1])
        if after is not None:
            after(len(plans), core)
        for frames in reports[-1].frames:
            core.acknowledge(frames.request_id, frames.count)
    assert not waiting
    return rank, plans, reports


@pytest.fixture(scope="module")
def known():
    """Latents of requests alone."""
    return {}


@pytest.fixture
def lone(model, latents, known):
    def find(requests):
        for request in requests:
            if request not in known:
                run(model, {request: 0}, Batching())
                known[request] = latents.take()[request.request_id]
        return {request.request_id: known[request] for request in requests}

    return find


@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_streams_that_share_forwards_are_what_each_is_alone(model, latents, lone, case, invariant):
    requests = [request_of(case, name) for name in "abc"]
    wanted = lone(requests)
    rank, plans, reports = run(
        model, dict(zip(requests, (0, 3, 8), strict=True)), Batching(most=3, invariant=invariant)
    )
    found = latents.take()
    assert found.keys() == wanted.keys()
    for name, one in found.items():
        gap = (one - wanted[name]).abs().max()
        assert gap == 0 if invariant else gap <= 1e-5, name
    together = [plan.windows for plan in plans if len(plan.windows) == 3]
    assert together
    assert any(len({(w.chunk, w.step) for w in windows}) > 1 for windows in together)
    if CASES[case][0] is not None:
        assert any(len({w.commits for w in windows}) > 1 for windows in together)
    assert all(not failure for report in reports for failure in report.failures)
    rank.execute(StepPlan(sequence=rank._sequence, generation=0, releases=tuple(rank._held)))
    if CASES[case][0] is not None:
        assert_nothing_stays(rank)


@pytest.mark.parametrize("mixed", ["text", "positions", "view"])
def test_rows_mixed_up_are_seen(model, latents, lone, monkeypatch, mixed):
    """Else the test above would pass with a batch whose rows read what belongs to others."""
    requests = [request_of("clean pass", name) for name in "ac"]
    wanted = lone(requests)
    whole = type(model).denoise_rows

    def mix(rows):
        return [replace(row, **{mixed: getattr(other, mixed)}) for row, other in zip(rows, rows[::-1], strict=True)]

    monkeypatch.setattr(type(model), "denoise_rows", lambda model, rows, **more: whole(model, mix(rows), **more))
    run(model, dict.fromkeys(requests, 0) | {requests[1]: 2}, Batching(most=2))
    found = latents.take()
    assert max((found[name] - wanted[name]).abs().max() for name in wanted) > 1e-3


def test_costs_of_a_shared_forward_are_split(model):
    requests = [request_of("clean pass", name) for name in "ac"]
    _, plans, reports = run(model, dict.fromkeys(requests, 0), Batching(most=2))
    plan, report = next((p, r) for p, r in zip(plans, reports, strict=True) if len(p.windows) == 2)
    costs = [cost for cost in report.costs if cost.stage is Stage.DENOISE]
    assert [cost.request_id for cost in costs] == [window.request_id for window in plan.windows]
    assert [cost.forwards for cost in costs] == [1, 1]
    assert all(cost.seconds > 0 for cost in costs)


def break_sampler(monkeypatch):
    whole = OpenWindow.close

    def close(opened, *predicted):
        if opened.window.request_id == "b" and opened.window.chunk == 1:
            raise RuntimeError("the sampler broke")
        return whole(opened, *predicted)

    monkeypatch.setattr(OpenWindow, "close", close)


def break_forward(monkeypatch, model):
    """Whatever has b's second chunk in it."""
    whole, rows_of, second = type(model).denoise_rows, OpenWindow.rows, {}

    def note(opened):
        rows = rows_of(opened)
        if opened.window.request_id == "b" and opened.window.chunk == 1:
            second.update((id(row), row) for row in rows.values())
        return rows

    def denoise_rows(model, rows, **more):
        if any(id(row) in second for row in rows):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return whole(model, rows, **more)

    monkeypatch.setattr(OpenWindow, "rows", note)
    monkeypatch.setattr(type(model), "denoise_rows", denoise_rows)


def break_layout(monkeypatch):
    whole, at_work = PagePool.lay_out, []
    begin = OpenWindow.__init__

    def note(opened, held, window):
        at_work[:] = [window]
        begin(opened, held, window)

    def lay_out(pool, frames, tokens, to_L2SND, angles):
        if at_work and at_work[0].request_id == "b" and at_work[0].chunk == 1:
            to_L2SND[:, 0].fill_(torch.nan)
            raise torch.OutOfMemoryError("no memory is left")
        whole(pool, frames, tokens, to_L2SND, angles)

    monkeypatch.setattr(OpenWindow, "__init__", note)
    monkeypatch.setattr(PagePool, "lay_out", lay_out)


@pytest.mark.parametrize("how", [*product(["sampler", "forward", "memory"], [False, True])], ids=str)
def test_one_that_fails_leaves_the_others_what_they_are_alone(model, latents, lone, monkeypatch, how):
    what, invariant = how
    requests = [request_of("clean pass", name, FEW) for name in "bac"]
    wanted = lone(requests)
    if what == "sampler":
        break_sampler(monkeypatch)
    elif what == "forward":
        break_forward(monkeypatch, model)
    else:
        break_layout(monkeypatch)
    rank, plans, reports = run(model, dict.fromkeys(requests, 0), Batching(most=3, invariant=invariant))
    failed = [failure.request_id for report in reports for failure in report.failures]
    assert failed == ["b"]
    found = latents.take()
    for name in "ac":
        gap = (found[name] - wanted[name]).abs().max()
        assert gap == 0 if invariant else gap <= 1e-5
    assert any({w.request_id for w in plan.windows} == {"a", "c"} for plan in plans)
    rank.execute(StepPlan(sequence=rank._sequence, generation=0, releases=tuple(rank._held)))
    assert_nothing_stays(rank)


def test_one_that_is_cancelled_leaves_the_others_what_they_are_alone(model, latents, lone):
    requests = [request_of("clean pass", name, FEW) for name in "abc"]
    wanted = lone(requests)
    rank, _, _ = run(
        model,
        dict.fromkeys(requests, 0),
        Batching(most=3, invariant=True),
        after=lambda step, core: core.cancel(RequestId("b")) if step == 6 else None,
    )
    found = latents.take()
    assert all(torch.equal(found[name], wanted[name]) for name in "ac")
    rank.execute(StepPlan(sequence=rank._sequence, generation=0, releases=tuple(rank._held)))
    assert_nothing_stays(rank)
