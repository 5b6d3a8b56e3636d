"""A real server for each module, a fresh prefix for each test."""

import asyncio
import secrets

import pytest

from reelray.cluster.store.connection import Connection, StoreAddress
from reelray.cluster.store.embedded import EmbeddedStore
from reelray.cluster.store.open import Store


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedStore(tmp_path_factory.mktemp("store")) as embedded:
        yield embedded


@pytest.fixture
def address(server):
    return StoreAddress(url=server.url, prefix="t" + secrets.token_hex(6))


@pytest.fixture
def play(address):
    """Runs a coroutine function on an empty store."""

    def run(case):
        async def main():
            connection = Connection(address)
            try:
                return await case(Store.over(connection))
            finally:
                await connection.close()

        return asyncio.run(main())

    return run
