"""How tests of gangs come by their ranks."""

import pytest

from tests.support.forked_launcher import ForkedLauncher


@pytest.fixture
def forked(monkeypatch):
    """Engines of this machine fork their ranks off, as `ForkedLauncher` does: no rank imports torch again."""
    monkeypatch.setattr("reelray.cluster.local_engine.LocalLauncher", ForkedLauncher)
