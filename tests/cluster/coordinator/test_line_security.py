"""Lines over the network: encrypted, to the coordinator that the store names and nobody else."""

import asyncio
import socket
import ssl

import grpc
import pytest

from reelray.cluster.coordinator.line_security import HOST, LineKey, open_channel
from reelray.cluster.coordinator.switchboard import Switchboard
from reelray.cluster.coordinator.words import HOUSE, METHOD, SECRET
from reelray.proto.errors import InputError
from tests.support.coordinating import a_coordinator

SAID = ((HOUSE, "h"), (SECRET, "the-secret"))
KEY = LineKey.make()


def on_a_board(case):
    async def run():
        board = Switchboard("127.0.0.1:0", "the-secret", KEY)
        await board.start()
        board.lead(a_coordinator(fence=3)[0])
        try:
            await case(board)
        finally:
            await board.stop()

    asyncio.run(run())


async def greet(channel, said=SAID):
    async with channel:
        call = channel.stream_stream(METHOD)(metadata=said)
        try:
            return await call.read()
        finally:
            call.cancel()


def test_a_house_that_knows_certificate_and_secret_is_heard():
    async def case(board):
        assert await greet(open_channel(board.address, KEY.certificate.decode())) is not grpc.aio.EOF
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await greet(open_channel(board.address, KEY.certificate.decode()), ((HOUSE, "h"), (SECRET, "another")))
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED

    on_a_board(case)


@pytest.mark.parametrize("certificate", [None, LineKey.make().certificate.decode()], ids=["in the clear", "another's"])
def test_nobody_else_gets_a_line(certificate):
    async def case(board):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await greet(open_channel(board.address, certificate))
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE

    on_a_board(case)


def test_what_is_said_there_is_tls():
    async def case(board):
        host, _, port = board.address.rpartition(":")
        context = ssl.create_default_context(cadata=KEY.certificate.decode())
        context.set_alpn_protocols(["h2"])

        def version():
            line = socket.create_connection((host, int(port)), timeout=20)
            with context.wrap_socket(line, server_hostname=HOST) as secured:
                return secured.version()

        assert await asyncio.to_thread(version) == "TLSv1.3"

    on_a_board(case)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "10.0.0.7:50051", "[::]:0", "[2001:db8::1]:1", "coordinator:1"])
def test_nobody_speaks_in_the_clear_over_the_network(address):
    async def run():
        with pytest.raises(InputError, match="must be encrypted"):
            await Switchboard(address, "the-secret").start()
        with pytest.raises(InputError, match="must be encrypted"):
            open_channel(address, None)

    asyncio.run(run())


def test_the_key_is_not_shown():
    assert "PRIVATE" not in repr(KEY)
    assert "PRIVATE" in KEY.key.decode()
