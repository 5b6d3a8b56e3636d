"""Streams that rest between steps while others have their pages."""

import pytest
import torch

from reelray.proto.errors import ResourceError
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine import memory_rooms
from reelray.workers.engine.memory_rooms import MemoryRooms
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.resting import RestingDecoder
from reelray.workers.engine.station import Station
from reelray.workers.memory.entries import Frame
from reelray.workers.models.registry import open_checkpoint
from tests.support.pages_left import assert_nothing_stays
from tests.support.render_on import render_on
from tests.support.stream_cases import CASES, request_of, switched_request


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cpu")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("case", [*CASES, "recached, sink kept", "flushed"])
def test_a_stream_that_rests_after_every_step_is_the_same(tiny_t2v, model, monkeypatch, case, device):
    """Another one has its pages meanwhile; guidance has two memories, which rest and wake together."""
    model = model if device == "cpu" else open_checkpoint(tiny_t2v, device=device)
    request = request_of(case) if case in CASES else switched_request(case)
    monkeypatch.setattr(memory_rooms, "free_bytes", lambda _device: 64_000_000)
    core, rank, video = EngineCore(EngineLimits()), Rank(model), b""
    core.submit(request, model.facts)
    rests = decoders = 0
    while (plan := core.next_step(0.0)) is not None:
        for held in rank._held.values():
            held.prefetch()
            held.wake()
        report = rank.execute(plan)
        core.report(report)
        if device == "cuda":
            torch.cuda.synchronize()  # steps that only move a window are not waited for
        for held in rank._held.values():
            with torch.inference_mode():
                held.park()
                held.park()
                decoders += isinstance(held._decode_state, RestingDecoder)
                assert held._decode_state is None or not held._decode_state.parts.slots
                for room in rank._rooms._rooms.values():
                    assert room.arena.free == room.arena.unpromised == room.arena.pages
                    room.arena.transfers.last.wait()
                    room.arena.storage_PX.fill_(255)
            rests += 1
        for frames in report.frames:
            video += frames.data
            core.acknowledge(request.request_id, frames.count)
    assert rests > 12
    assert decoders > 6
    assert video == render_on(Rank(model), request)
    assert_nothing_stays(rank)
    assert all(room.host.free == room.host.pages for room in rank._rooms._rooms.values())


def test_both_memories_of_guidance_wake_or_neither(model, monkeypatch):
    frame_bytes = memory_rooms.PAGE_ROWS * model.key_shape(model.heads).token_bytes
    monkeypatch.setattr(memory_rooms, "free_bytes", lambda _device: 16 * frame_bytes)
    monkeypatch.setattr(memory_rooms, "SHARE", 1.0)
    rooms, station = MemoryRooms(model), Station()
    first = rooms.open(request_of("moving sink, guided"), station)
    (room,) = rooms._rooms.values()
    whole = room.arena.pages - room.arena.unpromised
    assert whole == 16  # two branches: seven frames, and a workspace
    first.park()
    second = rooms.open(request_of("sink and latest"), station)
    free = room.arena.unpromised
    assert free >= whole // 2
    with pytest.raises(ResourceError, match="not promised"):
        first.wake()
    assert room.arena.unpromised == free
    second.close()
    first.wake()
    assert room.arena.unpromised == 0
    for memory in first._memories:
        memory.memory._held[Frame(index=0)] = room.arena.take(1)
    monkeypatch.setattr(room.host, "pages", 1)
    with pytest.raises(ResourceError, match="host memory"):
        first.park()
    assert room.arena.unpromised == 0
    assert room.host.free == 1
