"""The embedded checkpoint on lanes of four ranks, regrouped between steps: every clip is that of one rank."""

import os
import signal

import pytest
import torch

from reelray.cluster.checkpoint_loader import CheckpointLoader
from reelray.cluster.local_engine import LocalEngine
from reelray.cluster.model_catalog import PACKAGED
from reelray.proto.events import Frames, Progress, Stage
from reelray.proto.layout import Layout
from reelray.proto.storage import Storage
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.gang import Gang, GangSpec
from reelray.workers.engine.leader import Leader
from tests.support import lane_cases
from tests.support.fake_model import FakeModel
from tests.support.forked_launcher import ForkedLauncher
from tests.support.gloo_world import run_world
from tests.support.lane_cases import CFG, FOUR, OPEN, PAIRS, SCENARIOS, SINGLES, UNSHARED, a_request, requests_of
from tests.support.plain_loop import render_plainly


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return run_world(lane_cases.run_world, 4, tmp_path_factory.mktemp("lanes"))


@pytest.fixture(scope="module")
def alone():
    """Renders a request on one rank; equal requests are rendered once."""
    clips = {}
    with LocalEngine.open(OPEN) as engine:

        def render(request):
            if request not in clips:
                clips[request] = collect(engine.render(request))
            return clips[request]

        yield render


def collect(events):
    data = [torch.frombuffer(bytearray(e.data), dtype=torch.uint8) for e in events if isinstance(e, Frames)]
    return torch.cat(data).int()


def assert_near(found, wanted):
    assert found.shape == wanted.shape
    difference = (found - wanted).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() <= 0.001


def layouts_of(steps):
    """Layouts in which windows moved, each once in a row."""
    found = []
    for step in steps:
        if step["plan"].windows and (not found or found[-1] != step["plan"].layout):
            found.append(step["plan"].layout)
    return found


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_clip_is_that_of_one_rank(world, alone, name):
    clips = world[0][name]["clips"]
    cancelled = {entry for entries in SCENARIOS[name][1].values() for entry in entries if isinstance(entry, str)}
    for request in requests_of(name):
        if request.request_id not in cancelled:
            found = torch.cat(clips[request.request_id]).int()
            assert_near(found, alone(request))
            if name == "four at once":  # a lane of one rank has the row tiles of one rank
                assert torch.equal(found, alone(request))


@pytest.mark.parametrize("name", SCENARIOS)
def test_ranks_do_what_the_plan_says_of_their_lane_and_nothing_else(world, name):
    for rank, result in enumerate(world):
        for step, first in zip(result[name]["plans"], world[0][name]["plans"], strict=True):
            plan = step["plan"]
            assert plan == first["plan"]
            layout, lane = plan.layout, rank // plan.layout.lane
            sharers = layout.sequence + layout.cfg - 1  # a branch of guidance is shared by `sequence` ranks
            wanted = [("moves", w.request_id, sharers) for w in plan.windows if w.lane == lane]
            wanted += [("decodes", d.request_id, layout.lane) for d in plan.decodes if d.lane == lane]
            assert step["did"] == wanted


def test_four_requests_run_in_the_same_steps_on_a_rank_each(world):
    steps = [step["plan"] for step in world[0]["four at once"]["plans"]]
    assert {plan.layout for plan in steps} == {SINGLES}
    assert [len(plan.windows) for plan in steps[1:4]] == [4, 4, 4]
    for rank, name in enumerate("abcd"):
        did = {request for step in world[rank]["four at once"]["plans"] for _, request, _ in step["did"]}
        assert did == {name}
    costs = world[0]["four at once"]["plans"][1]["costs"]
    assert [cost.request_id for cost in costs] == list("abcd")  # one rank of each lane tells


def test_a_second_request_regroups_in_the_middle_and_its_end_gives_the_ranks_back(world):
    steps = world[0]["one joins"]["plans"]
    assert layouts_of(steps) == [FOUR, PAIRS, FOUR]
    moves = [(step["plan"].moves, step["moved"]) for step in steps if step["plan"].moves]
    assert [[m.request_id for m in plan] for plan, _ in moves] == [["a"], ["a"]]
    assert all(moved > 50_000 for _, moved in moves)  # there are rows of a decoder among it
    assert all(step["moved"] == 0 for step in steps if not step["plan"].moves)
    both = [step["plan"] for step in steps if len(step["plan"].windows) == 2]
    assert both
    assert all([w.request_id for w in plan.windows] == ["a", "b"] for plan in both)


def test_requests_of_other_layouts_follow_each_other(world):
    steps = world[0]["other guidance follows"]["plans"]
    assert layouts_of(steps)[0] == CFG
    assert layouts_of(steps)[-1] == FOUR


def test_a_cancel_frees_a_lane_and_the_others_go_on(world):
    steps = [step["plan"] for step in world[0]["one is cancelled"]["plans"]]
    assert layouts_of(world[0]["one is cancelled"]["plans"]) == [SINGLES, PAIRS, FOUR]
    assert [plan.releases for plan in steps if plan.releases] == [("b",), ("c",), ("a",)]


def test_pictures_that_cannot_be_shared_move_with_the_rank_that_decodes(world):
    steps = world[0]["unshared"]["plans"]
    assert [step["plan"].layout.replica for step in steps if step["plan"].moves] == [2, 1]
    for entries in UNSHARED.values():
        for request in entries:
            found = torch.cat(world[0]["unshared"]["clips"][request.request_id])
            assert found.numpy().tobytes() == render_plainly(FakeModel(), request)


def test_no_group_is_made_after_the_start(world):
    for result in world:
        before, after = result["groups"]
        assert before == after == 9
        assert result["made"] == []


def test_a_state_goes_to_every_lane_and_back_bit_for_bit(world):
    first, *others = world[0]["states"]["states"]
    (latents,) = (value for name, value in first["chunk"]["work"]["tensors"].items() if name.startswith("latents"))
    assert latents.shape[2] == 1
    assert first["decode"]["decoder"].numel() > 100_000
    assert list(first["decode"]["clean"]) == [2]
    for state in others:
        assert equal(state, first)
    for rank, result in enumerate(world):
        for place, *holds in result["states"]["holds"]:
            assert holds == [rank in place.ranks] * 2  # and what has gone is freed
        moved, restored = result["states"]["here"]
        assert moved
        assert equal(moved, restored)  # margins too


def heads_kept(stops):
    """What the ranks of a lane keep together, every head once; those that keep the same heads have the same bits."""
    kept = {}
    for stop in filter(None, (stop["kept"] for stop in stops)):
        first, memories, _ = stop
        assert equal(kept.setdefault(first, memories), memories)
    return [
        [torch.cat([kept[first][branch]["layers"][layer][part] for first in sorted(kept)], 1) for part in (0, 1)]
        for branch in range(2)
        for layer in range(len(kept[0][branch]["layers"]))
    ]


def test_keys_and_values_go_to_every_lane_bit_for_bit(world):
    ranks = [result["memories"][Storage.EXACT] for result in world]
    wanted = heads_kept([stops[0] for stops in ranks])
    assert wanted[0][0].shape[0] == 4 * 15  # frames and tokens
    moved = []
    for number, stop in enumerate(ranks[0]):
        stops = [stops[number] for stops in ranks]
        assert equal(heads_kept(stops), wanted)
        assert [stops[rank]["kept"] is not None for rank in range(4)] == [
            rank in stop["place"].ranks for rank in range(4)
        ]
        assert all(stop["forwards"] == 0 for stop in stops)
        assert {stop["kept"][2] for stop in stops if stop["kept"]} == {2}
        moved.append(stop["moved"])
    everything = sum(part.nbytes for pair in wanted for part in pair)
    # Of all heads, what each rank of the next lane has not yet; latents of the forwards that made them come on top.
    shares = (0.75, 1.0, 1.5, 0.5, 1.5, 0.5)
    assert all(0 <= b / everything - share < 0.1 for b, share in zip(moved[1:], shares, strict=True))


@pytest.mark.parametrize("storage", [Storage.FP8, Storage.INT8])
def test_pages_in_eight_bits_are_made_anew_on_another_lane(world, storage):
    for rank, result in enumerate(world):
        for stop in result["memories"][storage][1:]:
            assert (stop["forwards"] > 0) == (rank in stop["place"].ranks)


def equal(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_a_rank_lost_while_two_lanes_run_loses_no_request(alone):
    requests = [a_request(0, steps=6, chunk=2), a_request(1, steps=6, chunk=2)]
    clips, plans = {}, []

    class Watched(EngineCore):
        def next_step(self, now_s):
            plan = super().next_step(now_s)
            plans.extend([plan] if plan else [])
            if plan and len(plan.windows) == 2 and plan.windows[0].chunk == 1 and not struck:
                struck.append(plan)
                os.kill(next(hello.pid for hello in gang.hellos if hello.rank == 3), signal.SIGKILL)
            return plan

    struck = []
    gang = Gang(ForkedLauncher(), GangSpec(load=OPEN, layout=FOUR, others=(PAIRS, SINGLES), start_s=120))
    gang.start()
    core = Watched(EngineLimits(commit_s=600), layouts=(FOUR, PAIRS, SINGLES))
    leader = Leader(core, gang, gang.description).start()
    streams = {request: leader.submit(request) for request in requests}
    for request, stream in streams.items():
        clips[request] = collect(stream)
    leader.close()
    gang.close()
    assert gang.generation == 1
    assert struck[0].layout == PAIRS
    again = plans[plans.index(struck[0]) + 1]
    assert (again.layout, len(again.admits)) == (PAIRS, 2)
    assert all(admit.resume is not None for admit in again.admits)
    for request in requests:
        assert_near(clips[request], alone(request))


@pytest.mark.usefixtures("forked")
def test_an_engine_is_opened_with_lanes(alone):
    requests = [a_request(number, steps=2) for number in (0, 1)]
    spec = GangSpec(load=OPEN, layout=Layout(ulysses=2), others=(Layout(replica=2),), start_s=120)
    with LocalEngine.open_gang(spec) as engine:
        streams = [engine.render(request) for request in requests]
        clips = [collect(stream) for stream in streams]
    for request, clip in zip(requests, clips, strict=True):
        assert_near(clip, alone(request))


@pytest.mark.usefixtures("forked")
def test_an_engine_serves_two_at_once_with_layouts_of_the_plan(alone):
    load = CheckpointLoader(path=PACKAGED / "sprites", device="cpu")
    wanted = [a_request(0, steps=30), a_request(1)]
    with LocalEngine.open_lanes(load, ranks=2) as engine:
        assert engine.description.layout == Layout(cfg=2)
        first = engine.render(wanted[0])
        events = [next(first)]
        while not isinstance(events[-1], Progress) or events[-1].stage is not Stage.DENOISE:
            events.append(next(first))
        found = [events, list(engine.render(wanted[1]))]
        events += first
    for one, request in zip(found, wanted, strict=True):
        assert_near(collect(one), alone(request))
    assert found[0][-1].summary.stage_s["regroup"] > 0  # it went to a lane of its own
