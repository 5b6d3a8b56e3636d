"""A command beside the application: told where it is, its status returned, the application ended whatever happens."""

import sys
from types import SimpleNamespace

import pytest

from reelray.cluster.serve_app import beside
from reelray.cluster.serve_app.arguments import AppArguments
from reelray.cluster.serve_app.beside import ADDRESS, run_beside

ARGUMENTS = AppArguments.model_validate({"models": [{"model": "m"}]})


class FakeServe:
    """Notes what it is asked; its gateways listen on 4711."""

    def __init__(self, error=None):
        self.asked, self.error = [], error

    def start(self, **options):
        self.asked.append(("start", options))

    def run(self, application, **options):
        self.asked.append(("run", options))
        if self.error is not None:
            raise self.error
        assert application is not None
        return SimpleNamespace(port=SimpleNamespace(remote=lambda: SimpleNamespace(result=lambda: 4711)))

    def delete(self, name):
        self.asked.append(("delete", name))


ASKED = [("start", {"proxy_location": "Disabled"}), ("run", {"name": "job", "route_prefix": None}), ("delete", "job")]


@pytest.mark.parametrize("status", [0, 7])
def test_a_command_has_the_application_for_as_long_as_it_runs(monkeypatch, tmp_path, status):
    serve = FakeServe()
    monkeypatch.setattr(beside, "serve", serve)
    script = "import sys; open(sys.argv[1], 'w').write(sys.argv[2]); sys.exit(int(sys.argv[3]))"
    command = [sys.executable, "-c", script, str(tmp_path / "told"), f"--server={ADDRESS}", str(status)]
    assert run_beside(ARGUMENTS, command, name="job") == status
    assert (tmp_path / "told").read_text() == "--server=127.0.0.1:4711"
    assert serve.asked == ASKED


def test_an_application_that_does_not_start_is_taken_away(monkeypatch, tmp_path):
    serve = FakeServe(RuntimeError("no room"))
    monkeypatch.setattr(beside, "serve", serve)
    with pytest.raises(RuntimeError, match="no room"):
        run_beside(ARGUMENTS, ["touch", str(tmp_path / "ran")], name="job")
    assert not (tmp_path / "ran").exists()
    assert serve.asked == ASKED
