"""Files are taken away only by the store whose jobs they are of."""

import asyncio

import pytest

from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.renders.belonging import MARK, check_belonging
from reelray.cluster.store.connection import Connection
from reelray.cluster.store.open import Store
from reelray.proto.errors import ArtifactError, ConflictError


def test_the_store_that_was_there_first_has_them(play, address, artifacts):
    async def case(store):
        await asyncio.gather(*(check_belonging(store, artifacts) for _ in range(4)))
        again = Connection(address)
        await check_belonging(Store.over(again), artifacts)
        await again.close()

    play(case)
    assert len(artifacts.read_mark(MARK)) == 32
    assert artifacts.tenants() == []


def test_another_store_is_refused_and_so_is_one_that_lost_its_data(play, artifacts):
    async def case(store):
        await check_belonging(store, artifacts)
        await store.connection.command("DEL", store.connection.key("identity"))
        with pytest.raises(ConflictError, match="belong to jobs of another store"):
            await check_belonging(store, artifacts)

    play(case)


def test_a_place_that_cannot_be_written_is_told_at_once(play, tmp_path):
    (tmp_path / "file").touch()

    async def case(store):
        with pytest.raises(ArtifactError):
            await check_belonging(store, Artifacts(tmp_path / "file"))

    play(case)
