import gc
import weakref

import pytest
import torch

from reelray.proto.errors import EngineError, ReelrayError, ResourceError, UnsupportedError
from reelray.proto.events import Stage
from reelray.proto.layout import Layout
from reelray.proto.recipe import Solver
from reelray.proto.step_plan import StepPlan, WindowStep
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.commits import restore, save
from reelray.workers.engine.desk import Desk
from reelray.workers.engine.held_request import HeldRequest
from reelray.workers.engine.memory_rooms import MemoryRooms
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.station import Station
from reelray.workers.samplers.guidance import SequentialBranches
from tests.support.fake_model import FakeModel
from tests.support.plain_loop import render_plainly
from tests.support.requests import make_recipe, make_request


def drive(rank, core, requests):
    """Run requests to the end; returns bytes per request and the reports."""
    videos, reports = {r.request_id: b"" for r in requests}, []
    for request in requests:
        core.submit(request, rank.describe().facts)
    while (plan := core.next_step(0.0)) is not None:
        report = rank.execute(plan)
        core.report(report)
        reports.append(report)
        for frames in report.frames:
            assert len(videos[frames.request_id]) == frames.first_frame * frames.height * frames.width * 3
            videos[frames.request_id] += frames.data
            core.acknowledge(frames.request_id, frames.count)
    return videos, reports


@pytest.mark.parametrize("solver", list(Solver))
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("chunk", [None, 1, 2, 3])
@pytest.mark.parametrize("piece", [1, 3])
def test_a_render_equals_the_plain_loop_bit_for_bit(solver, guidance, chunk, piece):
    recipe = make_recipe(steps=4, solver=solver, guidance=guidance, chunk=chunk)
    request = make_request("a", latent_frames=5, recipe=recipe, negative_prompt="dull")
    core = EngineCore(EngineLimits(decode_latent_frames=piece))
    videos, _ = drive(Rank(FakeModel()), core, [request])
    assert videos["a"] == render_plainly(FakeModel(), request)
    assert len(set(videos["a"])) > 20


class Counting(SequentialBranches):
    def __init__(self):
        self.begun, self.steps = [], 0

    def begin(self):
        self.begun.append(Counting())
        return self.begun[-1]

    def predict(self, evaluate, weight, *, shape):
        self.steps += 1
        return super().predict(evaluate, weight, shape=shape)


def test_every_chunk_begins_with_branches_of_its_own():
    branches = Counting()
    request = make_request("a", latent_frames=5, recipe=make_recipe(steps=4, chunk=2))
    videos, _ = drive(
        Rank(FakeModel(), stations={Layout(): Station(branches=branches)}), EngineCore(EngineLimits()), [request]
    )
    assert videos["a"] == render_plainly(FakeModel(), request)
    assert (branches.steps, [chunk.steps for chunk in branches.begun]) == (0, [4, 4, 4])


def test_a_chunk_that_goes_on_from_a_commit_has_branches_of_its_own_too():
    request, station = make_request("a", recipe=make_recipe(steps=4)), Station(branches=Counting())
    steps = [
        WindowStep(request_id="a", chunk=0, first_latent_frame=0, latent_frames=5, step=step, last=False)
        for step in range(2)
    ]
    held = HeldRequest(request, FakeModel(), station, MemoryRooms(FakeModel()))
    held.move(steps[0])
    resumed = HeldRequest(request, FakeModel(), station, MemoryRooms(FakeModel()))
    restore(resumed, station.role, save(held, station.role))
    resumed.move(steps[1])
    assert (station.branches.steps, [chunk.steps for chunk in station.branches.begun]) == (0, [1, 1])


def test_interleaved_requests_give_the_bytes_they_give_alone():
    requests = [
        make_request("a", seed=1, recipe=make_recipe(steps=5, chunk=2)),
        make_request("b", seed=2, latent_frames=3, recipe=make_recipe(steps=3, solver=Solver.UNIPC)),
        make_request("c", seed=1, recipe=make_recipe(steps=2, chunk=1, solver=Solver.X0_RENOISE)),
    ]
    together, _ = drive(Rank(FakeModel()), EngineCore(EngineLimits(requests=3, decode_latent_frames=1)), requests)
    for request in requests:
        assert together[request.request_id] == render_plainly(FakeModel(), request)


def test_weight_one_skips_the_unconditional_branch():
    model = FakeModel()
    request = make_request("a", negative_prompt="dull", recipe=make_recipe(steps=3, guidance=1.0))
    _, reports = drive(Rank(model), EngineCore(), [request])
    assert model.calls == ["prompt a"] * 3
    assert sum(cost.forwards for report in reports for cost in report.costs) == 3


def test_guidance_acts_only_inside_its_interval():
    from dataclasses import replace

    from reelray.proto.recipe import Guidance

    model = FakeModel()
    recipe = replace(make_recipe(steps=4), guidance=Guidance(scale=3.0, interval=(0.0, 0.9)))
    drive(Rank(model), EngineCore(), [make_request("a", negative_prompt="dull", recipe=recipe)])
    assert model.calls[0] == "prompt a"
    assert model.calls.count("dull") == len(model.calls) - 4 < 4


def test_costs_name_the_stages():
    _, reports = drive(Rank(FakeModel()), EngineCore(), [make_request("a")])
    stages = [cost.stage for report in reports for cost in report.costs]
    assert stages == [Stage.TEXT, Stage.DENOISE, Stage.DENOISE, Stage.DENOISE, Stage.DECODE, Stage.DECODE]
    assert all(cost.seconds >= 0 for report in reports for cost in report.costs)
    assert reports[-1].peak_bytes > 1_000_000


def test_an_image_reaches_the_model():
    request = make_request("a", image=bytes(range(256)) * 6)
    plain, _ = drive(Rank(FakeModel()), EngineCore(), [make_request("a")])
    pictured, _ = drive(Rank(FakeModel()), EngineCore(), [request])
    assert plain != pictured


@pytest.mark.parametrize(
    ("prompt", "kind", "message"),
    [
        ("boom", ReelrayError, "the model failed with RuntimeError: the transformer broke"),
        ("oom", ResourceError, "out of memory at 32x16 with 17 frames; ask for fewer frames or a smaller picture"),
        ("bad text", ReelrayError, "the model failed with ValueError: cannot read it"),
    ],
)
def test_a_failing_request_fails_alone(prompt, kind, message):
    rank, core = Rank(FakeModel()), EngineCore()
    good = make_request("good")
    videos, reports = drive(rank, core, [make_request("bad", prompt=prompt), good])
    failures = [failure for report in reports for failure in report.failures]
    assert [f.request_id for f in failures] == ["bad"]
    assert type(failures[0].error) is kind
    assert failures[0].error.message == message
    assert failures[0].error.ids == {"request": "bad"}
    assert videos["good"] == render_plainly(FakeModel(), good)
    assert videos["bad"] == b""


def test_a_recipe_that_cannot_be_sampled_is_named():
    from dataclasses import replace

    from reelray.proto.recipe import Guidance

    recipe = replace(make_recipe(steps=3), guidance=Guidance(per_step=(2.0, 3.0)))
    _, reports = drive(Rank(FakeModel()), EngineCore(), [make_request("a", recipe=recipe)])
    (failure,) = [failure for report in reports for failure in report.failures]
    assert isinstance(failure.error, UnsupportedError)
    assert "recipe fake: per_step holds 2 weights" in failure.error.message


def test_a_failed_cpu_allocation_is_out_of_memory():
    class Greedy(FakeModel):
        def denoise(self, *_args, **_kwargs):
            return torch.empty(1 << 60)

    _, reports = drive(Rank(Greedy()), EngineCore(), [make_request("a")])
    (failure,) = [failure for report in reports for failure in report.failures]
    assert isinstance(failure.error, ResourceError)


def test_values_that_are_not_finite_are_an_error_and_no_black_video():
    class Damaged(FakeModel):
        def denoise(self, latents_BCTHW, *args, **kwargs):
            return super().denoise(latents_BCTHW, *args, **kwargs) * float("nan")

    videos, reports = drive(Rank(Damaged()), EngineCore(), [make_request("a")])
    (failure,) = [failure for report in reports for failure in report.failures]
    assert "values that are not finite" in failure.error.message
    assert videos["a"] == b""


def test_a_plan_out_of_turn_is_refused():
    rank = Rank(FakeModel(), generation=4)
    rank.execute(StepPlan(sequence=0, generation=4))
    with pytest.raises(EngineError, match="plan 2 came where plan 1 was due"):
        rank.execute(StepPlan(sequence=2, generation=4))
    with pytest.raises(EngineError, match="plan 0 came where plan 1 was due"):
        rank.execute(StepPlan(sequence=0, generation=4))
    with pytest.raises(EngineError, match="generation 3 came to a rank of generation 4"):
        rank.execute(StepPlan(sequence=1, generation=3))
    rank.execute(StepPlan(sequence=1, generation=4))


def held_tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("prompt", ["fine", "boom"])
def test_nothing_is_held_after_the_release(prompt, caplog):
    caplog.set_level("CRITICAL")  # a kept log record would keep the failed frame's tensors
    rank, core = Rank(FakeModel()), EngineCore()
    drive(rank, core, [make_request("warm", prompt=prompt)])
    before = held_tensors()
    drive(rank, core, [make_request("a", prompt=prompt)])
    assert held_tensors() <= before


def test_the_tensors_of_a_failed_step_are_gone_when_the_memory_is_given_back(caplog, monkeypatch):
    caplog.set_level("CRITICAL")
    alive, watched = [], []

    class Failing(FakeModel):
        def denoise(self, latents_BCTHW, *_args, **_kwargs):
            activations = latents_BCTHW * 2
            watched.append(weakref.ref(activations))
            raise RuntimeError("the transformer broke")

    def forget(self, request_id):
        alive.append(watched[-1]() is not None)
        self.held.pop(request_id, None)

    monkeypatch.setattr(Desk, "forget", forget)
    drive(Rank(Failing()), EngineCore(), [make_request("a")])
    assert alive == [False]


def test_latents_of_a_chunk_go_once_it_is_decoded():
    held = []

    class Watched(FakeModel):
        def decode(self, latents_1CTHW, state, **options):
            tensors = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor]
            held.append(len({t.data_ptr() for t in tensors if t.shape == latents_1CTHW.shape}))
            return super().decode(latents_1CTHW, state, **options)

    core = EngineCore(EngineLimits(decode_latent_frames=1))
    drive(Rank(Watched()), core, [make_request("a", latent_frames=9, recipe=make_recipe(chunk=1))])
    assert len(held) == 9
    # the chunk at hand, the next one in work, and what is still in flight
    assert max(held) <= 4
