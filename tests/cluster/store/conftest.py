"""A real server for each module, a fresh prefix for each test."""

import asyncio
import os
import secrets
import tempfile
from pathlib import Path

import pytest

from reelray.cluster.store.connection import Connection, StoreAddress
from reelray.cluster.store.embedded import EmbeddedStore
from reelray.cluster.store.open import Store


@pytest.fixture(scope="module")
def server():
    # In memory where there is such a folder: these tests make thousands of changes, each of which waits for the disk.
    shared = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder,
        EmbeddedStore(Path(folder)) as embedded,
    ):
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
