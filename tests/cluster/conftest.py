"""Streams of a tiny checkpoint, live and known in advance; a real store for renders, and a server over it."""

import pytest

import reelray
from tests.support.archive import fresh_shelf, start_store
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import connect, serve
from tests.support.render_calls import Caller
from tests.support.stream_sessions import WISH


@pytest.fixture
def start(tiny_stream):
    def start(prompt="a red circle", **wish):
        return reelray.stream(prompt, **({"model": tiny_stream} | WISH | wish))

    return start


@pytest.fixture(scope="session")
def known(tiny_stream):
    """Frames of a stream of which everything is known in advance; each is made once."""
    made = {}

    def known(*at, prompt="a red circle", **wish):
        key = (at, prompt, *sorted(wish.items()))
        if key not in made:
            made[key] = reelray.render(prompt, at=at, **({"model": tiny_stream} | WISH | wish)).frames
            made[key].flags.writeable = False
        return made[key]

    return known


@pytest.fixture(scope="session")
def store_server():
    """One server for all; each test has a prefix of its own."""
    with start_store() as server:
        yield server


@pytest.fixture
def shelf(store_server, tmp_path):
    return fresh_shelf(store_server, tmp_path / "renders")


@pytest.fixture
def shelf_address(shelf):
    """Where a server listens that keeps renders."""
    with serve(FakeEngine(), shelf=shelf) as address:
        yield address


@pytest.fixture
def caller(shelf_address):
    with connect(shelf_address) as channel:
        yield Caller(channel)


@pytest.fixture
def hands(shelf):
    with shelf.opened() as hands:
        yield hands
