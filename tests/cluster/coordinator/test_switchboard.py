"""Lines are for houses that know the secret, while somebody leads, and end with what nobody understands."""

import asyncio

import grpc
import pytest

from reelray.cluster.coordinator.messages import Asked, Begin, Joined
from reelray.cluster.coordinator.switchboard import Switchboard
from reelray.cluster.coordinator.words import BEAT, HOUSE, METHOD, SECRET, pack_report, read_word
from tests.support.coordinating import a_coordinator, offer, wish
from tests.support.frail_line import FrailLine


def on_a_board(case):
    async def run():
        board, coordinator = Switchboard("127.0.0.1:0", "the-secret"), a_coordinator(fence=3)[0]
        await board.start()
        board.lead(coordinator)
        try:
            async with grpc.aio.insecure_channel(board.address) as channel:
                await case(board, coordinator, channel.stream_stream(METHOD))
        finally:
            await board.stop()

    asyncio.run(run())


def said(secret="the-secret"):
    return ((HOUSE, "h"), (SECRET, secret))


async def next_word(call):
    while (data := await call.read()) == BEAT:
        pass
    return read_word(data)


async def end_of(call):
    while await call.read() is not grpc.aio.EOF:
        pass


def test_a_house_is_heard_and_told():
    async def case(_board, coordinator, connect):
        call = connect(metadata=said())
        await call.write(pack_report(Joined(house="another's", engines=(offer("h/m"),))))
        await call.write(pack_report(Asked(wish=wish("a"))))
        word = await next_word(call)
        while not isinstance(word.decision, Begin):
            word = await next_word(call)
        assert (word.fence, word.decision.request_id) == (3, "a")
        call.cancel()
        while coordinator.engines:  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0.01)

    on_a_board(case)


@pytest.mark.parametrize("secret", ["", "another"])
def test_a_stranger_is_not(secret):
    async def case(_board, coordinator, connect):
        call = connect(metadata=said(secret))
        await call.write(pack_report(Joined(house="h", engines=(offer("h/m"),))))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await end_of(call)
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert coordinator.engines == ()

    on_a_board(case)


def test_who_leads_no_more_hangs_up_and_takes_no_lines():
    async def case(board, coordinator, connect):
        call = connect(metadata=said())
        await call.write(pack_report(Joined(house="h", engines=(offer("h/m"),))))
        while not coordinator.engines:  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0.01)
        board.lead(None)
        await end_of(call)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await end_of(connect(metadata=said()))
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE

    on_a_board(case)


def test_a_house_that_is_frozen_or_unplugged_is_given_up():
    """It hangs up on nobody, and TCP alone would wait for a quarter of an hour."""

    async def case(board, coordinator, _connect):
        line = FrailLine(board.address)
        try:
            async with grpc.aio.insecure_channel(line.address) as channel:
                call = channel.stream_stream(METHOD)(metadata=said())
                await call.write(pack_report(Joined(house="h", engines=(offer("h/m"),))))
                await next_word(call)
                line.freeze()
                async with asyncio.timeout(30):
                    while coordinator.engines:  # noqa: ASYNC110  nothing tells
                        await asyncio.sleep(0.01)
                call.cancel()
        finally:
            line.close()

    on_a_board(case)


def test_a_house_that_says_nonsense_is_given_up():
    async def case(_board, coordinator, connect):
        call = connect(metadata=said())
        await call.write(pack_report(Joined(house="h", engines=(offer("h/m"),))))
        await call.write(b"nonsense")
        await end_of(call)
        assert coordinator.engines == ()

    on_a_board(case)
