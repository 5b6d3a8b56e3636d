"""Which layouts a gang is started with, for one request or several at once."""

from dataclasses import replace
from itertools import pairwise

import pytest

from reelray.proto.errors import InputError, ResourceError
from reelray.proto.layout import Layout, check_regroup
from reelray.proto.residency import Blocks, Encoder, Residency
from reelray.proto.step_plan import StepReport
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.scheduler.plan.calibration import Curve
from reelray.scheduler.plan.lane_layouts import choose_lane_layouts, explain_lanes
from reelray.scheduler.plan.legality import list_lanes
from reelray.scheduler.plan.prediction import predict
from tests.support.planning import make_job, make_machine, make_stream, table
from tests.support.requests import make_facts, make_recipe, make_request

OFFLOADED = Residency(blocks=Blocks.OFFLOADED)


def chosen(job, gpus=4, gib=139, link="nvlink", **changes):
    return choose_lane_layouts(job, make_machine(gpus, gib, link), table(), **changes)


def names(choice):
    return [str(layout) for layout in choice.layouts]


def test_four_gpus_serve_one_two_or_four():
    choice = chosen(make_job())
    assert names(choice) == ["cfg=2,ulysses=2", "ulysses=4", "replica=2,cfg=2", "replica=2,ulysses=2", "replica=4"]
    guided = [str(choice.row_for(count).layout) for count in range(1, 6)]
    assert guided == ["cfg=2,ulysses=2", "replica=2,cfg=2", "replica=4", "replica=4", "replica=4"]
    assert str(choice.row_for(1, guided=False).layout) == "ulysses=4"
    assert (choice.residency, choice.left_out) == (Residency(), {})


@pytest.mark.parametrize(
    ("job", "gpus", "link"),
    [(make_job(), 8, "nvlink"), (make_job(), 4, "pcie"), (make_stream(), 6, "nvlink"),
     (make_job("1.3b", "480p"), 3, "pcie")],
)  # fmt: skip
def test_each_is_the_fastest_of_its_lanes_and_a_gang_can_be_regrouped(job, gpus, link):
    choice, machine = chosen(job, gpus, link=link), make_machine(gpus, 139, link)
    check_regroup(choice.layouts)
    assert {layout.ranks for layout in choice.layouts} == {gpus}
    for lanes in {layout.replica for layout in choice.layouts}:
        rivals = [
            predict(job, machine, table(), replace(lane, replica=lanes), choice.residency).clip_s
            for lane in list_lanes(job, replace(machine, gpus=gpus // lanes))
            if lane.ranks == gpus // lanes and lane.pipe == 1
        ]
        assert choice.row_for(lanes).clip_s <= min(rivals) * 1.01
    rates = [choice.row_for(count).clips_per_hour for count in range(1, gpus + 1)]
    assert all(more >= 0.99 * fewer for fewer, more in pairwise(rates))


@pytest.mark.parametrize("guidance", [3.0, 1.0])
@pytest.mark.parametrize("requests", [1, 2, 3, 4])
def test_a_gang_with_them_takes_the_one_that_was_meant(requests, guidance):
    """The plan says which layout serves so many requests; the core must take that one."""
    choice = chosen(make_job())
    core = EngineCore(EngineLimits(requests=4), layouts=choice.layouts)
    for index in range(requests):
        core.submit(make_request(str(index), recipe=make_recipe(steps=20, guidance=guidance)), make_facts())
    for _ in range(2):
        plan = core.next_step(0.0)
        core.report(StepReport(sequence=plan.sequence, generation=plan.generation))
    assert len(plan.windows) == requests
    assert plan.layout == choice.row_for(requests, guided=guidance != 1.0).layout


def test_weights_are_where_something_fits():
    assert chosen(make_job(), gib=24, link="pcie").residency == OFFLOADED
    tight = chosen(make_job(), gib=48, link="pcie")
    assert (tight.residency, tight.left_out) == (Residency(), {4: "does not fit"})
    assert max(layout.replica for layout in tight.layouts) == 2
    assert tight.row_for(4) == tight.row_for(2)
    assert chosen(make_job(), residency=Residency(encoder=Encoder.RELEASED)).residency.encoder is Encoder.RELEASED
    with pytest.raises(InputError, match="sharded weights belong to one layout"):
        chosen(make_job(), residency=Residency(blocks=Blocks.SHARDED))
    with pytest.raises(ResourceError, match="no layout of 4 GPUs fits with weights offloaded"):
        chosen(make_job(), gib=8)


def test_lanes_that_would_lose_clips_are_left_out():
    """On a machine whose attention is slow over many queries a rank alone takes more than its share of time."""
    odd = replace(table(), attention_tflops=Curve(((1e5, 1000.0), (1e6, 50.0))))
    job, machine = make_job("1.3b", "720p"), make_machine(4)
    choice = choose_lane_layouts(job, machine, odd)
    assert choice.left_out == dict.fromkeys((2, 4), "makes fewer clips an hour than fewer lanes")
    assert choose_lane_layouts(job, machine, table()).left_out == {}


def test_one_gpu_has_one_layout():
    assert chosen(make_job("1.3b", "480p"), 1).layouts == (Layout(),)


def test_it_is_said_who_serves_how_many():
    said = explain_lanes(chosen(make_job(), gib=48, link="pcie"), 4)
    assert said.startswith("A gang of 4 that is regrouped as requests come and go: one request: cfg=2,ulysses=2 (")
    assert "; 2 at once: replica=2,cfg=2 (" in said
    assert said.endswith("; without guidance ulysses=4; 4 lanes: does not fit.")
