"""A real store, and a folder for files of jobs."""

import pytest

from reelray.cluster.renders.artifacts import Artifacts
from tests.cluster.store.conftest import address, play, server  # noqa: F401  fixtures


@pytest.fixture
def artifacts(tmp_path):
    return Artifacts(tmp_path / "renders")
