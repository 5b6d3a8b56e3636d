"""A real store for renders: one server, a fresh prefix for each test."""

import pytest

from tests.support.archive import fresh_shelf, start_store
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import connect, serve
from tests.support.render_calls import Caller


@pytest.fixture(scope="session")
def store_server():
    with start_store() as server:
        yield server


@pytest.fixture
def shelf(store_server, tmp_path):
    return fresh_shelf(store_server, tmp_path / "renders")


@pytest.fixture
def caller(shelf):
    with serve(FakeEngine(), shelf=shelf) as address, connect(address) as channel:
        yield Caller(channel)


@pytest.fixture
def hands(shelf):
    with shelf.opened() as hands:
        yield hands
