"""Gangs of two CPU processes: what they do with requests and ranks that fail."""

import os
import signal
import threading
from dataclasses import dataclass

import pytest
import torch
from torch import distributed

from reelray.cluster.checkpoint_loader import CheckpointLoader
from reelray.proto.errors import (
    CheckpointError,
    EngineError,
    RankLostError,
    ReelrayError,
    ResourceError,
    UnsupportedError,
)
from reelray.proto.events import Done, Frames
from reelray.proto.layout import Layout
from reelray.proto.residency import Blocks, Residency
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.gang import Gang, GangSpec
from reelray.workers.engine.leader import Leader
from reelray.workers.engine.local_launcher import LocalLauncher
from tests.support.fake_model import FakeModel
from tests.support.forked_launcher import ForkedLauncher
from tests.support.plain_loop import render_plainly
from tests.support.requests import make_recipe, make_request

CFG = Layout(cfg=2)


@dataclass(frozen=True)
class OpenFake:
    step_s: float = 0.0
    failing: bool = False

    def __call__(self):
        if self.failing:
            raise CheckpointError("the folder is empty")
        return FakeModel(step_s=self.step_s)


class LameModel(FakeModel):
    """Fails on one rank only, whose peer then waits for it in a collective."""

    def denoise(self, latents_BCTHW, timestep_BT, text, **rest):
        if text[0][0] == "dull" and "lame" in self.names and distributed.get_rank() == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().denoise(latents_BCTHW, timestep_BT, text, **rest)

    def encode_text(self, prompts):
        self.names = prompts
        return super().encode_text(prompts)


@pytest.fixture
def gangs():
    made = []

    def start(launcher=None, **changes):
        spec = {"load": OpenFake(step_s=0.02), "layout": CFG, "silence_s": 2.0, "start_s": 60.0, **changes}
        gang = Gang(launcher or ForkedLauncher(), GangSpec(**spec))
        made.append(gang)
        gang.start()
        return gang

    yield start
    for gang in made:
        gang.close()


def lead(gang, **limits):
    return Leader(EngineCore(EngineLimits(commit_s=0.1, **limits)), gang, gang.description).start()


def collect(stream):
    video = b""
    for event in stream:
        if isinstance(event, Frames):
            assert event.first_frame * event.height * event.width * 3 == len(video)  # nothing twice, nothing left out
            video += event.data
        last = event
    assert isinstance(last, Done)
    return video


def a_request(name="a", **changes):
    recipe = make_recipe(steps=12, guidance=3.0, chunk=2)
    return make_request(name, latent_frames=6, negative_prompt="dull", recipe=recipe, **changes)


def test_a_request_that_ends_its_ranks_is_given_up_and_the_others_go_on(gangs):
    gang = gangs()
    leader = lead(gang, losses=1)
    poison = leader.submit(make_request("p", prompt="exit", recipe=make_recipe(steps=2, guidance=1.0)))
    other = leader.submit(a_request())
    with pytest.raises(EngineError, match="lost") as caught:
        list(poison)
    assert caught.value.retryable
    assert collect(other) == render_plainly(FakeModel(), a_request())
    leader.close()


def test_a_failure_of_one_rank_alone_ends_its_request_and_not_the_engine(gangs):
    gang = gangs(load=LameModel, lag_s=1.0)
    leader = lead(gang)
    lame = leader.submit(a_request("l", prompt="lame"))
    before = gang.pids()
    with pytest.raises(ResourceError, match="memory"):
        list(lame)
    assert gang.generation == 1
    assert gang.pids() == before  # nobody died: both left their gang and met anew
    assert collect(leader.submit(a_request("b"))) == render_plainly(FakeModel(), a_request("b"))
    leader.close()


def test_lanes_have_no_part_in_the_failures_of_others(gangs):
    pair = Layout(replica=2)
    gang = gangs(load=OpenFake(step_s=0.3), layout=pair, lag_s=0.1)
    leader = Leader(EngineCore(EngineLimits(losses=1), layouts=(pair,)), gang, gang.description).start()
    recipe = make_recipe(steps=5, guidance=3.0)
    good = leader.submit(make_request("g", recipe=recipe))
    failing = leader.submit(make_request("f", prompt="boom", recipe=make_recipe(guidance=1.0)))
    with pytest.raises(ReelrayError, match="the transformer broke"):
        list(failing)
    for _ in range(4):
        next(good)  # a step of its lane takes twice as long
    assert gang.generation == 0  # its lane went on for longer than ranks of one lane may lag behind
    poison = leader.submit(make_request("p", prompt="exit"))
    with pytest.raises(EngineError, match="lost"):
        list(poison)
    assert gang.generation == 1  # the good one was in flight too
    assert collect(good) == render_plainly(FakeModel(), make_request("g", recipe=recipe))
    leader.close()


def test_what_a_gang_cannot_be_regrouped_to_is_refused():
    for layouts, decode_ranks, words in (
        ((Layout(pipe=2), Layout(replica=2)), 0, "splits the layers"),
        ((Layout(ulysses=2), Layout(replica=2)), 1, "decode ranks take the latents of one lane"),
        ((Layout(replica=2),), 1, "decode ranks take the latents of one lane"),
    ):
        layout, *others = layouts
        with pytest.raises(UnsupportedError, match=words):
            GangSpec(load=OpenFake(), layout=layout, others=tuple(others), decode_ranks=decode_ranks)
    GangSpec(load=OpenFake(), layout=Layout(pipe=2), decode_ranks=1)


def test_sharded_weights_are_not_regrouped(tmp_path):
    load = CheckpointLoader(path=tmp_path, device="cpu", residency=Residency(blocks=Blocks.SHARDED))
    with pytest.raises(UnsupportedError, match="sharded weights belong to one layout"):
        GangSpec(load=load, layout=Layout(ulysses=2), others=(Layout(replica=2),))
    GangSpec(load=load, layout=Layout(ulysses=2))


def test_what_cannot_start_says_why():
    for spec, error, words in (
        ({"load": OpenFake(failing=True)}, CheckpointError, "the folder is empty"),
        ({"start_s": 0.3}, EngineError, "2 of 2 ranks are not ready after 0.3 s: rank 0 is starting"),
    ):
        gang = Gang(LocalLauncher(), GangSpec(**{"load": OpenFake(), "layout": CFG, "start_s": 60.0, **spec}))
        with pytest.raises(error, match=words):
            gang.start()
        gang.close()


def open_own_weights():
    model = FakeModel()
    model.digest = str(os.getpid())
    return model


def test_ranks_with_different_weights_are_refused():
    gang = Gang(ForkedLauncher(), GangSpec(load=open_own_weights, layout=CFG, start_s=60.0))
    with pytest.raises(EngineError, match="different weights"):
        gang.start()
    assert gang.pids() == []
    gang.close()


def test_a_rank_with_other_code_is_refused(monkeypatch):
    monkeypatch.setattr("reelray.workers.engine.gang_muster.digest_code", lambda: "0123")
    gang = Gang(ForkedLauncher(), GangSpec(load=OpenFake(), layout=CFG, start_s=60.0))
    with pytest.raises(EngineError, match="other code"):
        gang.start()
    gang.close()


def test_a_dead_rank_is_noticed_at_once_and_named(gangs):
    gang = gangs(
        LocalLauncher(), load=OpenFake(step_s=600.0)
    )  # a leader that waits for the step runs into the test's time limit
    core = EngineCore()
    core.submit(a_request(), gang.description.facts)
    core.report(gang.execute(core.next_step(0.0)))
    plan = core.next_step(0.0)
    victim = next(hello for hello in gang.hellos if hello.rank == 1)
    threading.Timer(0.2, os.kill, (victim.pid, signal.SIGKILL)).start()
    with pytest.raises(RankLostError, match="rank 1 of 2 was lost: ended by signal 9"):
        gang.execute(plan)
