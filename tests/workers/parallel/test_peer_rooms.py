"""Rooms on every rank: what one rank cannot do no rank does, and nothing is left of it. The driver is a fake."""

import gc

import pytest
import torch
from torch import distributed as dist

from reelray.workers.parallel import peer_rooms
from reelray.workers.parallel.local_ranks import run_ranks
from reelray.workers.parallel.peer_rooms import PeerRooms


class Driver:
    """Notes what lives; each call fails as often as it is told."""

    def __init__(self, monkeypatch, rank):
        self.rank, self.made, self.own, self.theirs = rank, 0, set(), set()
        self.failing, self.capturing = {}, False
        monkeypatch.setattr(peer_rooms, "SharedBytes", lambda count, _: Bytes(self, count))
        monkeypatch.setattr(peer_rooms, "open_bytes", self.open)
        monkeypatch.setattr(peer_rooms, "close_bytes", lambda pointer, _: self.theirs.remove(pointer))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)

    def call(self, name):
        if (error := self.failing.pop(name, None)) is not None:
            raise error

    def open(self, handle, _):
        self.call("open")
        self.theirs.add(int(handle))
        return int(handle)


class Bytes:
    """Stands for `SharedBytes`."""

    def __init__(self, driver, count):
        driver.call("make")
        driver.made += 1
        self.driver, self.pointer = driver, 1000 * driver.rank + driver.made
        self.tensor = torch.full((count,), 7, dtype=torch.uint8)
        driver.own.add(self.pointer)

    def export(self):
        self.driver.call("export")
        return str(self.pointer).encode()

    def free(self):
        self.driver.own.remove(self.pointer)


def with_driver(rank, act, *args):
    with pytest.MonkeyPatch.context() as patch:
        return act(Driver(patch, rank.rank), rank, *args)


def fail_once(driver, rank, call):
    """Rank 1 fails at a call; then all is well."""
    rooms = PeerRooms(dist.group.WORLD, rank.device)
    rooms.room("a", 4, torch.int32)
    before = set(driver.own), set(driver.theirs)
    driver.failing = {call: torch.OutOfMemoryError("full")} if rank.rank == 1 else {}
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        rooms.room("a", 400, torch.int32)
    left = set(driver.own), set(driver.theirs)
    again = rooms.room("a", 400, torch.int32)
    return left == before, again.mine.numel(), again.mine.unique().tolist(), again.pointers.tolist()


@pytest.mark.parametrize("call", ["make", "export", "open"])
def test_what_one_rank_cannot_do_no_rank_does_and_nothing_is_left_of_it(call) -> None:
    for left_as_before, elements, held, pointers in run_ranks(with_driver, fail_once, call, ranks=2, deadline_s=60):
        assert left_as_before
        assert (elements, held) == (400, [0])
        assert [pointer // 1000 for pointer in pointers] == [0, 1]


def grow(driver, rank):
    """Grow, then let go; what lives and which rooms are the same."""
    rooms = PeerRooms(dist.group.WORLD, rank.device)
    small = rooms.room("a", 4, torch.int32)
    same = rooms.room("a", 3, torch.int32) is small
    rooms.room("b", 4, torch.float32)
    large = rooms.room("a", 400, torch.int32)
    lives = len(driver.own), len(driver.theirs)
    also = rooms.room("a", 800, torch.bfloat16).pointers is large.pointers
    driver.capturing = True
    recorded = rooms.room("a", 400, torch.int32) is large
    with pytest.raises(torch.OutOfMemoryError, match="while a graph is recorded"):
        rooms.room("a", 401, torch.int32)
    del rooms
    gc.collect()
    return same, also, recorded, lives, (len(driver.own), len(driver.theirs))


def test_rooms_grow_outside_of_recordings_and_end_with_whoever_holds_them() -> None:
    for found in run_ranks(with_driver, grow, ranks=2, deadline_s=60):
        assert found == (True, True, True, (3, 3), (0, 0))
