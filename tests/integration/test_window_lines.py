"""Several requests at once on ranks that split the layers: each gives what it gives alone, whatever others do."""

import os
import signal
import threading
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import distributed

from reelray.cluster.local_engine import LocalEngine
from reelray.cluster.model_catalog import PACKAGED
from reelray.proto.errors import CancelledError, ResourceError, UnsupportedError
from reelray.proto.events import Done, Frames, Progress, Stage
from reelray.proto.layout import Layout
from reelray.proto.patching import Patching
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.gang import Gang, GangSpec
from reelray.workers.engine.leader import Leader
from reelray.workers.models.registry import open_checkpoint
from tests.support.forked_launcher import ForkedLauncher
from tests.support.requests import make_recipe, make_request

OPEN = partial(open_checkpoint, PACKAGED / "sprites", device="cpu")
PIPE = Layout(pipe=2)
LAME_FRAMES = 3


def open_lame():
    """Breaks in the layers of rank 1, and there only, with a window of so many latent frames."""
    model = OPEN()
    block = model.parts.transformer.blocks[-1]
    whole = block.forward

    def forward(x_BSC, *args, **rest):
        if x_BSC.shape[1] == LAME_FRAMES * 24 and distributed.get_rank() == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return whole(x_BSC, *args, **rest)

    block.forward = forward
    return model


def a_request(name, *, latent_frames=5, steps=4, chunk=None, seed=1, guidance=3.0, **changes):
    recipe = replace(make_recipe(steps=steps, guidance=guidance, chunk=chunk), text_tokens=512)
    return make_request(
        name,
        prompt=f"a {name} circle",
        latent_frames=latent_frames,
        recipe=recipe,
        width=96,
        height=64,
        seed=seed,
        **changes,
    )


def requests():
    return [
        a_request("red", seed=2),
        a_request("blue", latent_frames=4, chunk=2, steps=3),
        a_request("green", latent_frames=2, steps=6, guidance=1.0),
    ]


class Clip:
    def __init__(self, events):
        self.data, self.summary = [], None
        for event in events:
            if isinstance(event, Frames):
                self.data.append(torch.frombuffer(bytearray(event.data), dtype=torch.uint8))
            elif isinstance(event, Done):
                self.summary = event.summary
        self.frames = torch.cat(self.data).int()


@pytest.fixture(scope="module")
def alone():
    with LocalEngine.open(OPEN) as engine:
        return {request.request_id: Clip(engine.render(request)).frames for request in requests()}


def assert_near(found, wanted):
    assert found.shape == wanted.shape
    difference = (found - wanted).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() <= 0.001


@pytest.fixture
def led():
    """A gang of two ranks under a leader; `plans` are those that it carried out."""
    opened = []

    def start(load=OPEN, **changes):
        gang = Gang(ForkedLauncher(), GangSpec(load=load, layout=PIPE, start_s=120, **changes))
        gang.start()
        plans, issue = [], gang.issue

        def listen(plan):
            plans.append(plan)
            issue(plan)

        gang.issue = listen
        core = EngineCore(EngineLimits(commit_s=600), layouts=(PIPE,))
        leader = Leader(core, gang, gang.description)
        opened.append((gang, leader))
        return gang, leader, plans

    yield start
    for gang, leader in opened:
        leader.close()
        gang.close()


def test_requests_share_steps_and_nothing_else(led, alone):
    _, leader, plans = led()
    wanted = requests()
    streams = [leader.submit(request) for request in wanted]
    patched = a_request("red", seed=2, patching=Patching(patches=2, exact_steps=1))
    patched_stream = leader.submit(replace(patched, request_id="patched"))
    with pytest.raises(UnsupportedError, match="chunk by chunk"):
        leader.submit(replace(wanted[1], request_id="stream", patching=Patching(patches=2)))
    leader.start()
    clips = {request.request_id: Clip(stream) for request, stream in zip(wanted, streams, strict=True)}
    approximate = Clip(patched_stream)
    assert max(len(plan.windows) for plan in plans) == 2
    assert sum(len(plan.windows) == 2 for plan in plans) >= 9  # of 20 windows
    for name, clip in clips.items():
        assert_near(clip.frames, alone[name])
        assert clip.summary.patching is None
    assert [clips[name].summary.forwards for name in ("red", "blue", "green")] == [8, 12, 6]
    assert (approximate.frames - alone["red"]).abs().max() > 1
    assert approximate.summary.patching == Patching(patches=2, exact_steps=1)


def test_a_cancelled_request_leaves_the_line(led, alone):
    _, leader, _ = led()
    first, other = (leader.submit(request) for request in requests()[:2])
    leader.start()
    for event in first:
        if isinstance(event, Progress) and event.stage is Stage.DENOISE:
            break
    assert leader.cancel("red")
    assert_near(Clip(other).frames, alone["blue"])
    with pytest.raises(CancelledError):
        list(first)


def test_a_request_that_fails_on_one_rank_takes_nobody_along(led, alone):
    gang, leader, plans = led(load=open_lame, lag_s=1.0)
    red, blue, _ = requests()
    lame = a_request("lame", latent_frames=LAME_FRAMES)
    first, failing, last = (leader.submit(request) for request in (red, lame, blue))
    leader.start()
    with pytest.raises(ResourceError, match="out of memory at 96x64"):
        list(failing)
    assert "lame" in {window.request_id for plan in plans if len(plan.windows) > 1 for window in plan.windows}
    for stream, name in ((first, "red"), (last, "blue")):
        assert_near(Clip(stream).frames, alone[name])
    assert gang.generation == 1


def test_requests_in_a_line_survive_a_lost_rank(led, alone):
    gang, leader, plans = led()
    streams = [leader.submit(request) for request in requests()[:2]]
    struck = threading.Event()

    def strike(event):
        # the first chunk of the stream is committed, the whole clip begins anew
        if isinstance(event, Progress) and event.stage is Stage.DENOISE and event.done == 4 and not struck.is_set():
            struck.set()
            os.kill(next(hello.pid for hello in gang.hellos if hello.rank == 1), signal.SIGKILL)
        return event

    leader.start()
    blue = Clip(strike(event) for event in streams[1])
    red = Clip(streams[0])
    assert gang.generation == 1
    assert_near(blue.frames, alone["blue"])
    assert_near(red.frames, alone["red"])
    again = [plan for plan in plans if plan.generation == 1]
    resumed = {admit.request.request_id: admit.resume is not None for plan in again for admit in plan.admits}
    assert resumed.get("blue")
