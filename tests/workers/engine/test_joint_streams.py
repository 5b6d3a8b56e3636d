"""Streams whose chunks share forwards, through a rank: against plain loops, latent by latent, and over lost ranks."""

from dataclasses import replace

import pytest

from reelray.proto.chunking import Chunking
from reelray.proto.layout import Layout
from reelray.proto.memory_rule import MemoryRule, Placement
from reelray.proto.placement import Lending
from reelray.proto.recipe import Guidance, Recipe, Schedule, Solver
from reelray.proto.request import PromptChange
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.lending import pays_to_lend
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.held_request import HeldRequest
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.station import Station
from reelray.workers.models.registry import open_checkpoint
from tests.support.interrupted import interrupted
from tests.support.joint_stream import anchored, newest, roll_plainly, shifted
from tests.support.latent_pictures import LatentPictures
from tests.support.pages_left import assert_nothing_stays
from tests.support.render_on import render_on
from tests.support.requests import make_recipe, make_request
from tests.support.stream_watched import stream_watched

THREE = Schedule(solver=Solver.X0_RENOISE, timesteps=(1000.0, 600.0, 300.0), warp=True, shift=5.0)
LEVELS = [shifted(step) for step in THREE.timesteps]
ROLLING = MemoryRule(local=8, sink=2, placement=Placement.ANCHORED)
CASES = {
    "rolling": (
        ROLLING,
        Guidance(scale=1.0),
        {"rule": anchored(10, anchor=2, chunk=2), "clean_rule": newest(10, chunk=2)},
    ),
    "rolling, guided": (
        ROLLING,
        Guidance(scale=3.0),
        {"rule": anchored(10, anchor=2, chunk=2), "clean_rule": newest(10, chunk=2)},
    ),
    "cascading": (
        MemoryRule(local=8),
        Guidance(scale=1.0),
        {"rule": newest(8, chunk=2), "clean_rule": newest(8, chunk=2)},
    ),
}


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return LatentPictures(open_checkpoint(tiny_t2v, device="cpu"))


def request_of(case, name="a", *, latent_frames=17, **changes):
    """Nine chunks of two latent frames, the last of one; three are in flight."""
    memory, guidance, _ = CASES[case]
    recipe = Recipe(
        name="rolling",
        schedule=THREE,
        guidance=guidance,
        chunking=Chunking(latent_frames=2, stagger=1),
        memory=memory,
    )
    size = {"width": 48, "height": 32, "prompt": "a red circle", "latent_frames": latent_frames}
    return make_request(name, recipe=recipe, **(size | changes))


@pytest.mark.parametrize("case", CASES)
def test_chunks_in_flight_are_what_a_plain_loop_makes(model, case):
    request, (_, guidance, rules) = request_of(case), CASES[case]
    found, forwards = stream_watched(model, request)
    wanted = roll_plainly(model, request, levels=LEVELS, **rules)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert forwards == (11 + 8) * (1 if guidance.scale == 1 else 2)  # windows, and a clean pass for all but the last


def test_the_first_chunk_need_not_be_remembered_before_it_is_clean(model):
    """The published code remembers its estimates too, window by window; nothing attends those."""
    _, _, rules = CASES["rolling"]
    request, seen = request_of("rolling"), []
    wanted = roll_plainly(model, request, levels=LEVELS, **rules, keeps_estimates=True, on_window=seen.append)
    assert seen[0] == [(0, 0)]
    assert seen[1] == [(0, 1), (1, 0)]
    assert seen[5] == [(3, 2), (4, 1), (5, 0)]
    assert seen[-2:] == [[(7, 2), (8, 1)], [(8, 2)]]
    found, _ = stream_watched(model, request)
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("case", CASES)
def test_chunks_in_flight_go_on_from_any_commit_bit_by_bit(model, case):
    """Ramp-up, steady state, right before and after a clean pass, ramp-down."""
    request = request_of(case)
    whole = render_on(Rank(model), request)
    for steps in (2, 3, 5, 6, 7, 14, 24, 30):
        assert interrupted(model, request, after=steps) == whole, steps


@pytest.mark.parametrize("case", ["rolling", "cascading"])
def test_a_new_prompt_holds_from_the_window_in_which_the_next_chunk_begins(model, case):
    """Said in the fourth chunk, so the fifth brings it, and with it come the two chunks that are in flight then."""
    request = request_of(case, changes=(PromptChange(latent_frame=7, prompt="the blue square moves right"),))
    found, _ = stream_watched(model, request)
    wanted = roll_plainly(model, request, levels=LEVELS, **CASES[case][2])
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    before, _ = stream_watched(model, replace(request, changes=()))
    gap = (before - found).abs().amax((0, 1, 3, 4))
    assert (gap[:4] == 0).all()
    assert (gap[4:] > 1e-4).all()


@pytest.mark.parametrize("mistake", ["anchor left behind", "anchor in clean passes", "no clean pass", "one level off"])
def test_the_comparison_sees_mistakes(model, mistake):
    request = request_of("rolling")
    rules, levels = dict(CASES["rolling"][2]), list(LEVELS)
    match mistake:
        case "anchor left behind":
            rules["rule"] = newest(10, chunk=2)
        case "anchor in clean passes":
            rules["clean_rule"] = rules["rule"]
        case "no clean pass":
            rules["clean_rule"] = newest(2, chunk=2)
        case _:
            levels[1] = shifted(580)
    found, _ = stream_watched(model, request)
    wanted = roll_plainly(model, request, levels=levels, **rules)
    assert (found - wanted).abs().max() > 1e-4 * wanted.abs().max()


def test_frames_leave_as_soon_as_a_chunk_has_left_its_last_level(model):
    core, rank, request, seen = EngineCore(EngineLimits()), Rank(model), request_of("rolling"), []
    core.submit(request, model.facts)
    while (plan := core.next_step(0.0)) is not None:
        report = rank.execute(plan)
        core.report(report)
        seen += ["clean" if w.is_clean_pass else len(w.slots) for w in plan.windows]
        seen += ["decode" for _ in plan.decodes]
        for frames in report.frames:
            core.acknowledge(request.request_id, frames.count)
    ramp_up, steady, ramp_down = [1, 2, 3, "decode", "clean"], [3, "decode", "clean"], [2, "decode", "clean"]
    assert seen == [*ramp_up, *steady * 6, *ramp_down, 1, "decode"]


@pytest.mark.parametrize("after", [2, 7, 8])
def test_chunks_in_flight_go_to_another_lane_bit_by_bit(model, after):
    """What one rank gives another one takes: between windows, and before a clean pass."""
    request = request_of("rolling")
    whole, ranks = render_on(Rank(model), request), [Rank(model), Rank(model)]
    core, video, done, rank = EngineCore(EngineLimits()), b"", 0, ranks[0]
    core.submit(request, model.facts)
    while (plan := core.next_step(0.0)) is not None:
        report = rank.execute(plan)
        core.report(report)
        done += 1
        for frames in report.frames:
            video += frames.data
            core.acknowledge(request.request_id, frames.count)
        if done == after:
            old, rank = rank, ranks[1]
            held = HeldRequest(request, model, Station(), rank._rooms, here=False)
            held.take(old._held[request.request_id].give())
            held.settle(Station(), here=True)
            held.begin_memory(Station())
            assert_nothing_stays(old)
            rank._held[request.request_id], rank._sequence = held, old._sequence
    assert video == whole


def test_chunks_in_flight_are_not_lent_to_ranks_that_decode():
    request = request_of("rolling")
    rounds = Chunking(latent_frames=2, stagger=0, round_latent_frames=4)
    lending = Lending(layout=Layout(ulysses=2), apart_step_s=9.0, lent_step_s=1.0, switch_s=0.0)
    for recipe, lent in ((replace(request.recipe, memory=None, chunking=rounds), False), (make_recipe(chunk=2), True)):
        assert pays_to_lend(lending, replace(request, recipe=recipe), steps_left=3, joins=False) is lent
