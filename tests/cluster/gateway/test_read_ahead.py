"""Bytes come in order and once; one piece is read while the last is used, and no more."""

import asyncio
import threading
from contextlib import aclosing

import pytest

from reelray.cluster.gateway import read_ahead as reading
from reelray.cluster.gateway.read_ahead import read_ahead

DATA = bytes(range(256)) * 4


class File:
    """Notes what is read of it."""

    def __init__(self, fail_at=None):
        self.read_to, self.fail_at, self.moved = 0, fail_at, threading.Condition()

    def read(self, begin, end):
        assert begin < end, "there is nothing to read"
        if self.fail_at is not None and end > self.fail_at:
            raise OSError("the disk is away")
        with self.moved:
            self.read_to = end
            self.moved.notify_all()
        return DATA[begin:end]

    def wait(self, place):
        with self.moved:
            assert self.moved.wait_for(lambda: self.read_to >= place, 20)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(reading, "PIECE_BYTES", 100)


@pytest.mark.parametrize(("begin", "end"), [(0, 1024), (7, 8), (100, 300), (923, 1024), (5, 5), (9, 3)])
def test_every_byte_comes_once(begin, end):
    async def read():
        return [piece async for piece in read_ahead(File().read, begin, end)]

    pieces = asyncio.run(read())
    assert b"".join(pieces) == DATA[begin:end]
    assert all(0 < len(piece) <= 100 for piece in pieces)


def test_one_piece_is_read_ahead_and_no_more():
    async def read():
        file, at = File(), 0
        async with aclosing(read_ahead(file.read, 0, 1024)) as pieces:
            async for piece in pieces:
                at += len(piece)
                await asyncio.to_thread(file.wait, min(1024, at + 100))
                await asyncio.sleep(0.001)  # it would read on now, if it could
                assert file.read_to == min(1024, at + 100)
                if at == 500:
                    break

    asyncio.run(read())


def test_what_cannot_be_read_is_said_after_what_could_and_to_nobody_who_left(caplog):
    found = []

    async def read(count):
        async with aclosing(read_ahead(File(fail_at=250).read, 0, 1024)) as pieces:
            async for piece in pieces:
                found.append(piece)
                if len(found) == count:
                    await asyncio.sleep(0.01)  # the next read has failed meanwhile
                    return

    with pytest.raises(OSError, match="the disk is away"):
        asyncio.run(read(10))
    assert b"".join(found) == DATA[:200]
    found.clear()
    asyncio.run(read(2))
    assert not caplog.records
