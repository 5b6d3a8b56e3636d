"""Streams on several ranks, every one a process: what chunks remember is what one rank remembers."""

import os
import signal
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from reelray.proto.bank_rule import BankRule
from reelray.proto.chunking import Chunking
from reelray.proto.events import Frames, Progress, Stage
from reelray.proto.layout import Layout
from reelray.proto.memory_rule import Commit, MemoryRule, Placement, PromptSwitch
from reelray.proto.recipe import Guidance, Recipe, Schedule, Solver
from reelray.proto.request import PromptChange
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.gang import Gang, GangSpec
from reelray.workers.engine.leader import Leader
from reelray.workers.engine.rank import Rank
from reelray.workers.models.registry import open_checkpoint
from tests.support.forked_launcher import ForkedLauncher
from tests.support.render_on import render_on
from tests.support.requests import make_request

FEW = Schedule(solver=Solver.X0_RENOISE, timesteps=(1000.0, 500.0), shift=5.0)
PLAIN = MemoryRule(local=4, sink=1)
LAST = MemoryRule(local=4, sink=1, commit=Commit.LAST_STEP)
LEVELS = MemoryRule(local=3, sink=1, commit=Commit.EVERY_STEP, placement=Placement.WRAPPED, wrap=7)
RECACHED = MemoryRule(local=4, sink=2, switch=PromptSwitch.RECACHE, switch_frames=6)
BANKED = MemoryRule(local=2, sink=1, bank=BankRule(size=2), switch=PromptSwitch.RECACHE, switch_frames=3)
REBUILT = MemoryRule(
    local=4, sink=1, placement=Placement.RELATIVE, commit=Commit.REBUILD, switch=PromptSwitch.LERP, switch_chunks=9
)
CHANGE = (PromptChange(latent_frame=7, prompt="a blue star spins"),)


def stream(memory, name="a", *, guided=False, **changes):
    guidance = Guidance(scale=3.0 if guided else 1.0)
    recipe = Recipe(name="stream", schedule=FEW, guidance=guidance, chunking=Chunking(latent_frames=2), memory=memory)
    size = {"width": 48, "height": 32, "prompt": "a red circle", "latent_frames": 12}
    return make_request(name, recipe=recipe, **(size | changes))


def rolling(name="a", **changes):
    """Two chunks in flight over an anchored sink."""
    request = stream(MemoryRule(local=6, sink=2, placement=Placement.ANCHORED), name, **changes)
    recipe = replace(request.recipe, chunking=Chunking(latent_frames=2, stagger=1))
    return replace(request, recipe=recipe)


def rounds(name="a"):
    """Chunks of a round together, and the last of it given to the next one."""
    request = stream(None, name, guided=True)
    chunking = Chunking(latent_frames=2, stagger=1, round_latent_frames=6, overlap=2, overlap_timestep=20.0)
    schedule = Schedule(solver=Solver.UNIPC, steps=3, shift=8.0)
    return replace(request, recipe=replace(request.recipe, chunking=chunking, schedule=schedule))


@pytest.fixture(scope="module")
def alone(tiny_t2v):
    """A request's frames on one rank."""
    model = open_checkpoint(tiny_t2v, device="cpu")
    return lambda request: np.frombuffer(render_on(Rank(model), request), np.uint8).astype(int)


@pytest.fixture(scope="module")
def led(tiny_t2v):
    """Starts gangs once for all requests of a layout."""
    opened = {}

    def start(layout, *, others=(), decode_ranks=0):
        key = layout, others, decode_ranks
        if key not in opened:
            load = partial(open_checkpoint, tiny_t2v, device="cpu")
            spec = GangSpec(load=load, layout=layout, others=others, decode_ranks=decode_ranks, start_s=120, lag_s=20)
            gang = Gang(ForkedLauncher(), spec)
            gang.start()
            core = EngineCore(EngineLimits(commit_s=1e-4), layouts=spec.layouts, decode_ranks=decode_ranks)
            opened[key] = gang, Leader(core, gang, gang.description).start()
        return opened[key]

    yield start
    for gang, leader in opened.values():
        leader.close()
        gang.close()


def watch(leader, request, strike=None):
    """Its frames; `strike` hears of every window that moved."""
    parts = []
    for event in leader.submit(request):
        if isinstance(event, Frames):
            parts.append(event.data)
        if strike is not None and isinstance(event, Progress) and event.stage is Stage.DENOISE:
            strike(event.done)
    return np.frombuffer(b"".join(parts), np.uint8).astype(int)


def assert_near(found, wanted):
    assert found.shape == wanted.shape
    assert abs(found - wanted).max() <= 1
    assert (found != wanted).mean() <= 0.001


def kill_at(gang, rank, step):
    """Kills a rank once, when so many windows have moved."""
    struck = []

    def strike(done):
        if done >= step and not struck:
            struck.append(rank)
            os.kill(next(hello.pid for hello in gang.hellos if hello.rank == rank), signal.SIGKILL)

    return strike


@pytest.mark.parametrize(
    ("layout", "request_"),
    [
        (Layout(ulysses=2), stream(RECACHED, changes=CHANGE)),
        (Layout(cfg=2), stream(RECACHED, guided=True, changes=CHANGE)),
        (Layout(cfg=2), stream(LAST, guided=True)),
        (Layout(ulysses=2), rolling(changes=CHANGE)),
        (Layout(cfg=2), rounds()),
        (Layout(ulysses=2), stream(LEVELS)),
        (Layout(ulysses=2), stream(BANKED, changes=CHANGE)),
        (Layout(ring=2), stream(BANKED, changes=CHANGE)),
        (Layout(ring=2), rolling(changes=CHANGE)),
    ],
    ids=[
        "heads",
        "branches",
        "branches, last step",
        "heads, in flight",
        "branches, in rounds",
        "heads, by level",
        "heads, bank",
        "ring, bank",
        "ring, in flight",
    ],
)
def test_ranks_that_share_a_stream_remember_what_one_remembers(led, alone, layout, request_):
    _, leader = led(layout)
    assert_near(watch(leader, request_), alone(request_))


@pytest.mark.parametrize("memory", [RECACHED, BANKED], ids=["window", "bank"])
def test_a_lost_rank_costs_a_stream_nothing(led, alone, memory):
    gang, leader = led(Layout(ulysses=2))
    request = stream(memory, "b" if memory is RECACHED else "c", changes=CHANGE)
    before = gang.generation
    assert_near(watch(leader, request, kill_at(gang, 1, 15)), alone(request))
    assert gang.generation == before + 1


@pytest.mark.parametrize("rank", [0, 1])
def test_crews_come_by_a_stream_again_whoever_was_lost(led, alone, rank):
    """Rank 1 only decodes: a chunk on its way to it when it dies is a lost rank, and no error of the request."""
    gang, leader = led(Layout(), decode_ranks=1)
    makers = (partial(stream, PLAIN), partial(stream, PLAIN), rolling, rounds)
    for number, (step, make) in enumerate(zip((4, 9, 6, 7), makers, strict=True)):
        request = make(name=f"{rank}-{number}")
        assert_near(watch(leader, request, kill_at(gang, rank, step)), alone(request))


@pytest.mark.parametrize("memory", [None, REBUILT, BANKED], ids=["in flight", "rebuilt", "bank"])
def test_streams_take_their_memory_to_other_lanes(led, alone, memory):
    gang, leader = led(Layout(ulysses=2), others=(Layout(replica=2),))
    long = rolling("long", latent_frames=40)
    if memory is not None:
        long = stream(memory, "long", latent_frames=40, changes=CHANGE if memory is REBUILT else ())
    short = stream(RECACHED, "short", seed=3, changes=CHANGE)
    found = {}

    def follow(request, delay_s):
        time.sleep(delay_s)
        found[request.request_id] = watch(leader, request)

    threads = [threading.Thread(target=follow, args=pair) for pair in ((long, 0.0), (short, 0.5))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert_near(found["long"], alone(long))
    assert_near(found["short"], alone(short))
    assert gang.generation == 0
