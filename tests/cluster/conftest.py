"""Streams of a tiny checkpoint, live and known in advance."""

import pytest

import reelray
from tests.support.stream_sessions import WISH


@pytest.fixture
def start(tiny_stream):
    def start(prompt="a red circle", **wish):
        return reelray.stream(prompt, **({"model": tiny_stream} | WISH | wish))

    return start


@pytest.fixture
def known(tiny_stream):
    """Frames of a stream of which everything is known in advance."""

    def known(*at, prompt="a red circle", **wish):
        return reelray.render(prompt, at=at, **({"model": tiny_stream} | WISH | wish)).frames

    return known
