"""A house's line to one coordinator after the other."""

import asyncio
from contextlib import suppress

from reelray.cluster.coordinator import remote_line
from reelray.cluster.coordinator.remote_line import ADDRESS, RemoteLine
from reelray.cluster.coordinator.switchboard import Switchboard
from reelray.cluster.coordinator.words import SECRET
from reelray.cluster.store.leaders import Leadership
from tests.support.coordinating import a_coordinator


class Hall:
    """What a store says about who leads, and the desk of a house."""

    house = "h"

    def __init__(self):
        self.leaders, self.now, self.connected, self.lines = self, None, [], 0

    async def observe(self, _name):
        return self.now

    def connect(self, fence, _say):
        self.connected.append(fence)
        self.lines += 1

    def disconnect(self, _say):
        self.lines -= 1

    def hear(self, word):
        pass


def leads(board, fence):
    data = {ADDRESS: board.address, SECRET: "the-secret"}
    return Leadership(name="coordinator", owner=str(fence), fence=fence, until_ms=0, data=data)


async def wait_for(what):
    async with asyncio.timeout(20):
        while not what():  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0.01)


def test_a_house_leaves_a_lively_predecessor_for_whoever_follows_again_and_again(monkeypatch):
    monkeypatch.setattr(remote_line, "LOOK_S", 0.02)

    async def case():
        boards, hall = [Switchboard("127.0.0.1:0", "the-secret") for _ in range(4)], Hall()
        line = RemoteLine(hall, hall)
        for fence, board in enumerate(boards):
            await board.start()
            board.lead(a_coordinator(fence=fence)[0])
        task = asyncio.create_task(line.run())
        try:
            for fence, board in enumerate(boards):  # none of them hangs up
                hall.now = leads(board, fence)
                await wait_for(lambda fence=fence: hall.connected[-1:] == [fence] and line.is_up.is_set())
                assert not task.done()
                assert hall.lines == 1
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            for board in boards:
                await board.stop()
        assert hall.connected == [0, 1, 2, 3]
        assert hall.lines == 0

    asyncio.run(case())
