import pytest

from tests.support.commands import CommandLine
from tests.support.fake_engine import FakeEngine


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """The command line in an empty folder, with the fake engine."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return CommandLine(tmp_path / "work", FakeEngine(), capsys)
