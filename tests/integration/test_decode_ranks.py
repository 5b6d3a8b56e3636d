"""Ranks that only decode, on gloo: beside the denoising, with the frames of one rank, whatever fails or dies."""

import os
import signal
import threading
from functools import partial

import pytest

from reelray.proto.errors import ReelrayError
from reelray.proto.events import Progress, Stage
from reelray.proto.layout import Layout
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.gang import Gang, GangSpec
from reelray.workers.engine.leader import Leader
from reelray.workers.engine.local_launcher import LocalLauncher
from tests.support.fake_model import FakeModel
from tests.support.gang_cases import Brittle, Gated, Overheard, clip_of, pid_of
from tests.support.plain_loop import render_plainly
from tests.support.requests import make_recipe, make_request

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
        gang = Gang(LocalLauncher(), GangSpec(load=load, layout=Layout(), decode_ranks=1, start_s=120, **spec))
        opened.append(gang)
        gang.start()
        channel = Overheard(gang)
        leader = Leader(EngineCore(limits, decode_ranks=1), channel, gang.description).start()
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
