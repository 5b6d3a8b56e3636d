"""Ranks that only decode, on gloo: beside the denoising, with the frames of one rank, whatever fails or dies."""

import os
import signal
import threading
from dataclasses import replace
from functools import partial

import pytest
import torch

from reelray.cluster.local_engine import LocalEngine
from reelray.cluster.model_catalog import PACKAGED
from reelray.proto.decoder import Decoder
from reelray.proto.errors import ReelrayError
from reelray.proto.events import Progress, Stage
from reelray.proto.layout import Layout
from reelray.proto.placement import Lending
from reelray.proto.recipe import Solver
from reelray.proto.step_plan import Crew
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.gang import Gang, GangSpec
from reelray.workers.engine.leader import Leader
from reelray.workers.models.registry import open_checkpoint
from tests.support.fake_model import FakeModel
from tests.support.forked_launcher import ForkedLauncher
from tests.support.gang_cases import Brittle, Gated, InStep, Noting, Overheard, clip_of, pid_of
from tests.support.plain_loop import render_plainly
from tests.support.requests import make_recipe, make_request
from tests.support.tiny_taehv import draw_state

OPEN = partial(open_checkpoint, PACKAGED / "sprites", device="cpu")
STEPS, CHUNK = 4, 2
RECIPE = make_recipe(steps=STEPS, chunk=CHUNK, guidance=1.0)
LIMITS = EngineLimits(frame_credit=999, commit_s=600)


def a_request(name="a", **changes):
    return make_request(name, latent_frames=8, recipe=RECIPE, **changes)


@pytest.fixture
def served():
    """Starts a gang with a rank of its own for decode; returns gang, overheard channel and leader."""
    opened = []

    def serve(load, limits=LIMITS, **spec):
        gang = Gang(ForkedLauncher(), GangSpec(load=load, layout=Layout(), decode_ranks=1, start_s=120, **spec))
        opened.append(gang)
        gang.start()
        channel = Overheard(gang)
        core = EngineCore(limits, decode_ranks=1, lending=spec.get("lending"))
        leader = Leader(core, channel, gang.description).start()
        opened.append(leader)
        return gang, channel, leader

    yield serve
    for one in reversed(opened):
        one.close()


def test_a_decode_goes_on_under_the_denoise_steps_of_the_next_chunk(served, tmp_path):
    # The first piece waits until three steps of the second chunk are evaluated: if steps waited for it, nothing would.
    _, channel, leader = served(partial(Gated, tmp_path, STEPS + 3))
    assert clip_of(leader.submit(a_request())) == render_plainly(FakeModel(), a_request())
    assert channel.windows_under_decodes()[0] >= 3


def test_a_rank_that_dies_in_a_long_decode_takes_the_video_back_to_its_last_commit(served, tmp_path):
    # The decoder waits for an evaluation that does not come, until it is killed; its successor finds that it has.
    gang, channel, leader = served(partial(Gated, tmp_path, 3 * STEPS + 1))
    struck = threading.Event()

    def strike(event):
        # two chunks wait beside the one in the decoder: the ranks that denoise are held back
        is_held_back = isinstance(event, Progress) and event.stage is Stage.DENOISE and event.done == 3 * STEPS
        if is_held_back and not struck.is_set():
            struck.set()
            os.kill(pid_of(gang, 1), signal.SIGKILL)
            (tmp_path / f"evaluation-{3 * STEPS + 1}").touch()

    assert clip_of(leader.submit(a_request()), strike) == render_plainly(FakeModel(), a_request())
    assert gang.generation == 1
    again = [w for kind, plan in channel.notes if kind == "issue" and plan.generation == 1 for w in plan.windows]
    assert [(w.chunk, w.step) for w in again] == [(3, step) for step in range(STEPS)]


@pytest.mark.parametrize("layout", ["ulysses=2", "cfg=2"])
def test_decode_ranks_help_with_the_first_chunk_and_join_others_in_the_middle(served, layout, tmp_path):
    # The first step of every later chunk waits until what is before it is decoded; then there is nothing to decode.
    lending = Lending(layout=Layout.parse(layout), apart_step_s=2.0, lent_step_s=1.0)
    recipe = replace(make_recipe(steps=6, chunk=CHUNK, guidance=3.0, solver=Solver.UNIPC), text_tokens=512)
    request = make_request("a", prompt="a red circle", latent_frames=5, recipe=recipe, width=112, height=80)
    with LocalEngine.open(OPEN) as alone:
        wanted = torch.frombuffer(bytearray(clip_of(alone.render(request))), dtype=torch.uint8).int()
    _, channel, leader = served(
        InStep(tmp_path, OPEN), lending=lending, limits=EngineLimits(decode_latent_frames=1, commit_s=600)
    )
    found = torch.frombuffer(bytearray(clip_of(leader.submit(request))), dtype=torch.uint8).int()
    difference = (found - wanted).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() <= 0.001
    plans = [plan for kind, plan in channel.notes if kind == "issue" and plan.windows and plan.crew is Crew.DENOISE]
    lent = [(w.chunk, w.step) for plan in plans if plan.layout == lending.layout for w in plan.windows]
    assert lent[:6] == [(0, step) for step in range(6)]
    assert any(plan.joins for plan in plans)
    assert {chunk for chunk, _ in lent} == {0, 1, 2}


@pytest.mark.parametrize("lent", [False, True])
def test_ranks_open_what_they_have_a_use_for(served, lent, tmp_path):
    request = make_request(
        "a", prompt="a red circle", latent_frames=3, recipe=replace(RECIPE, text_tokens=512), width=96, height=64
    )
    with LocalEngine.open(OPEN) as alone:
        wanted = clip_of(alone.render(request))
    lending = Lending(layout=Layout(cfg=2), apart_step_s=2.0, lent_step_s=1.0) if lent else None
    load = Noting(path=PACKAGED / "sprites", device="cpu", notes=tmp_path)
    _, _, leader = served(load, lending=lending)
    assert clip_of(leader.submit(request)) == wanted
    opened = sorted(path.name.rpartition("-")[0] for path in tmp_path.iterdir())
    assert opened == ["transformer+text_encoder", "transformer+vae+text_encoder" if lent else "vae"]


def test_previews_are_decoded_by_ranks_that_decode_and_opened_by_no_other(served, tiny_t2v, tmp_path):
    file = tmp_path / "tiny.pth"
    torch.save(draw_state(), file)
    recipe = replace(RECIPE, decoder=Decoder.TAEHV_STREAM)
    request = make_request("a", prompt="a red circle", latent_frames=3, recipe=recipe, width=48, height=32)
    with LocalEngine.of_model(open_checkpoint(tiny_t2v, device="cpu", preview=file)) as alone:
        wanted = clip_of(alone.render(request))
    notes = tmp_path / "notes"
    notes.mkdir()
    _, _, leader = served(Noting(path=tiny_t2v, device="cpu", preview=file, notes=notes))
    assert clip_of(leader.submit(request)) == wanted
    opened = sorted(path.name.rpartition("-")[0] for path in notes.iterdir())
    assert opened == ["transformer+text_encoder", "vae+preview"]


def test_a_rank_lost_while_it_helps_is_replaced_and_all_go_on(served):
    lending = Lending(layout=Layout(ulysses=2), apart_step_s=2.0, lent_step_s=1.0)
    recipe = make_recipe(steps=12, guidance=1.0)
    request = make_request("a", latent_frames=3, recipe=recipe)
    load = partial(FakeModel, step_s=0.05)
    gang, channel, leader = served(load, lending=lending, limits=EngineLimits(commit_s=0.01, frame_credit=999))
    struck = threading.Event()

    def strike(event):
        if isinstance(event, Progress) and event.stage is Stage.DENOISE and event.done == 5 and not struck.is_set():
            struck.set()
            os.kill(pid_of(gang, 1), signal.SIGKILL)

    assert clip_of(leader.submit(request), strike) == render_plainly(FakeModel(), request)
    assert gang.generation == 1
    again = [p for kind, p in channel.notes if kind == "issue" and p.generation == 1 and p.windows]
    assert again[0].windows[0].step >= 4  # not from the beginning
    assert all(plan.layout == lending.layout for plan in again)


def test_a_failure_in_the_decoder_ends_its_request_alone(served):
    gang, _, leader = served(Brittle)
    bad, good = leader.submit(a_request("b")), leader.submit(a_request("g"))
    with pytest.raises(ReelrayError, match="the decoder broke"):
        clip_of(bad)
    assert clip_of(good) == render_plainly(FakeModel(), a_request("g"))
    assert gang.generation == 0


def test_a_cancel_under_a_decode_leaves_the_next_request_alone(served, tmp_path):
    _, _, leader = served(partial(Gated, tmp_path, STEPS + 2))
    with leader.submit(a_request("c")) as events:
        for event in events:
            if isinstance(event, Progress) and event.stage is Stage.DENOISE and event.done == STEPS + 2:
                break
    assert clip_of(leader.submit(a_request("d"))) == render_plainly(FakeModel(), a_request("d"))


def test_a_core_that_knows_no_decode_ranks_is_refused(served):
    gang, _, _ = served(FakeModel)
    leader = Leader(EngineCore(), gang, gang.description).start()
    with pytest.raises(ReelrayError, match="must be told of the same decode ranks, here 1"):
        clip_of(leader.submit(a_request("x")))
    leader.close()
