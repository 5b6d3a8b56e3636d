"""The embedded checkpoint on gangs of CPU processes: exact layouts give the clip of one rank, also when one dies."""

import os
import signal
import threading
from dataclasses import replace
from functools import partial

import pytest
import torch

from reelray.cluster.local_engine import LocalEngine
from reelray.cluster.model_catalog import PACKAGED
from reelray.proto.events import Frames, Progress, Stage
from reelray.proto.layout import Layout
from reelray.proto.step_plan import Crew
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.gang import Gang, GangSpec
from reelray.workers.engine.leader import Leader
from reelray.workers.engine.local_launcher import LocalLauncher
from reelray.workers.engine.merge_reports import merge_reports
from reelray.workers.models.registry import open_checkpoint
from tests.support.forked_launcher import ForkedLauncher
from tests.support.gang_cases import Tally
from tests.support.requests import make_recipe, make_request

OPEN = partial(open_checkpoint, PACKAGED / "sprites", device="cpu")
LAYOUTS = ("ring=2", "cfg=2", "pipe=2", "cfg=2,ulysses=2")


def request_for(chunk=None):
    recipe = replace(make_recipe(steps=4, guidance=3.0, chunk=chunk), text_tokens=512)
    prompt = "a red circle moves left on a blue background"
    # 5 x 7 tokens of 9 latent rows: neither divides by two
    return make_request("a", prompt=prompt, latent_frames=5, recipe=recipe, width=112, height=80)


def collect(events, on_event=lambda _: None):
    parts = []
    for event in events:
        on_event(event)
        if isinstance(event, Frames):
            parts.append(torch.frombuffer(bytearray(event.data), dtype=torch.uint8))
    return torch.cat(parts).int()


@pytest.fixture(scope="module")
def alone():
    with LocalEngine.open(OPEN) as engine:
        yield {chunk: collect(engine.render(request_for(chunk))) for chunk in (None, 2)}


def assert_near(found, wanted):
    difference = (found - wanted).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() <= 0.001


@pytest.mark.parametrize(
    ("text", "launcher"), [("ulysses=2", LocalLauncher), *((text, ForkedLauncher) for text in LAYOUTS)]
)
def test_a_gang_renders_what_one_rank_renders(alone, text, launcher, monkeypatch):
    monkeypatch.setattr("reelray.cluster.local_engine.LocalLauncher", launcher)
    with LocalEngine.open_gang(GangSpec(load=OPEN, layout=Layout.parse(text), start_s=120)) as engine:
        assert engine.description.layout == Layout.parse(text)
        assert_near(collect(engine.render(request_for())), alone[None])


@pytest.mark.usefixtures("forked")
def test_a_rank_of_its_own_decodes_beside_the_one_that_denoises(alone, monkeypatch):
    told = []

    def listen(reports):
        told.extend((report.crew, bool(report.frames)) for report in reports)
        return merge_reports(reports)

    monkeypatch.setattr("reelray.workers.engine.gang_step.merge_reports", listen)
    with LocalEngine.open_gang(GangSpec(load=OPEN, layout=Layout(), decode_ranks=1, start_s=120)) as engine:
        assert_near(collect(engine.render(request_for(2))), alone[2])
    assert (Crew.DECODE, True) in told
    assert (Crew.DENOISE, False) in told
    assert (Crew.DENOISE, True) not in told


@pytest.mark.parametrize(("layout", "decode_ranks"), [("pipe=2", 0), ("", 1)])
def test_a_rank_lost_while_chunks_are_decoded_changes_nothing(alone, layout, decode_ranks):
    spec = GangSpec(load=OPEN, layout=Layout.parse(layout), decode_ranks=decode_ranks, start_s=120)
    gang = Gang(ForkedLauncher(), spec)
    gang.start()
    limits = EngineLimits(commit_s=600, decode_latent_frames=1)  # a commit at each chunk's end alone
    core, struck = EngineCore(limits, decode_ranks=decode_ranks), threading.Event()
    leader = Leader(core, gang, gang.description).start()

    def strike(event):
        # the first chunk is decoded and the second one begun: the decoder's state is part of the commit
        if isinstance(event, Progress) and event.stage is Stage.DENOISE and event.done == 9 and not struck.is_set():
            struck.set()
            os.kill(next(hello.pid for hello in gang.hellos if hello.rank == 1), signal.SIGKILL)

    found = collect(leader.submit(request_for(2)), strike)
    leader.close()
    gang.close()
    assert gang.generation == 1
    assert_near(found, alone[2])


@pytest.mark.parametrize(
    ("device", "text"),
    [("cpu", "cfg=2,ulysses=2"), pytest.param("cuda", "ulysses=2", marks=pytest.mark.multigpu)],
)
def test_all_ranks_but_a_killed_one_keep_their_weights(device, text, tmp_path):
    tally = Tally(tmp_path, partial(open_checkpoint, PACKAGED / "sprites", device=device))
    launcher = LocalLauncher() if device == "cuda" else ForkedLauncher()
    gang = Gang(launcher, GangSpec(load=tally, layout=Layout.parse(text), start_s=120))
    gang.start()
    leader, struck = Leader(EngineCore(EngineLimits(commit_s=600)), gang, gang.description).start(), threading.Event()
    calm, before = collect(leader.submit(request_for(2))), gang.pids()

    def strike(event):
        if isinstance(event, Progress) and event.stage is Stage.DENOISE and event.done == 5 and not struck.is_set():
            struck.set()
            os.kill(before[-1], signal.SIGKILL)

    found = collect(leader.submit(request_for(2)), strike)
    after = gang.pids()
    leader.close()
    gang.close()
    assert gang.generation == 1
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]
    assert sorted(tally.pids()) == sorted([*before, after[-1]])  # the survivors loaded once
    assert torch.equal(found, calm)


@pytest.mark.usefixtures("forked")
def test_a_gang_animates_a_picture_as_one_rank_does(tiny_i2v):
    load, picture = partial(open_checkpoint, tiny_i2v, device="cpu"), torch.arange(32 * 48 * 3).mul(7).to(torch.uint8)
    recipe = replace(make_recipe(steps=3, guidance=4.0), text_tokens=512)
    request = make_request(
        "a", prompt="a red circle", negative_prompt="blue", latent_frames=3, recipe=recipe, width=48, height=32,
        image=picture.numpy().tobytes(),
    )  # fmt: skip
    other = replace(request, image=picture.flip(0).numpy().tobytes())
    with LocalEngine.open(load) as engine:
        wanted, unlike = (collect(engine.render(one)) for one in (request, other))
    with LocalEngine.open_gang(GangSpec(load=load, layout=Layout(ulysses=2), start_s=120)) as engine:
        assert_near(collect(engine.render(request)), wanted)
    assert (wanted - unlike).abs().max() > 1  # the picture matters
