"""What all engines of these tests find."""

import pytest

from reelray.workers.engine import memory_rooms
from tests.support.latent_pictures import LatentPictures

FREE_BYTES = 64_000_000


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch):
    """Room for many tiny streams; counting all the pages that this machine could hold takes longer than a stream."""
    monkeypatch.setattr(memory_rooms, "free_bytes", lambda _device: FREE_BYTES)


@pytest.fixture(scope="module")
def plain(model):
    """For what the decoder has no part in."""
    return LatentPictures(model)
