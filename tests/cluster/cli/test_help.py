"""`--help` of every command is the text in `tests/cluster/help/`.

After a wanted change, write them anew from the repository's root:

    python -m tests.cluster.cli.test_help
"""

import difflib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from reelray.cluster.cli.app import app
from reelray.cluster.cli.session import Session
from reelray.cluster.services import default_services

FOLDER = Path(__file__).parents[1] / "help"
WRITTEN_WITH = FOLDER / "typer-version"
COMMANDS = (
    "",
    "render",
    "stream",
    "serve",
    "submit",
    "jobs",
    "watch",
    "cancel",
    "fetch",
    "upload",
    "plan",
    "simulate",
    "bench",
    "bench parallel",
    "models",
    "doctor",
    "info",
    "settings",
    "version",
)


def help_of(command):
    # Fixed width, no colours; the program's name does not depend on how the tests are run.
    arguments = [*command.split(), "--help"]
    session = Session(services=default_services())
    width = {"terminal_width": 100, "max_content_width": 100}
    result = CliRunner().invoke(app, arguments, obj=session, prog_name="reelray", **width)
    assert result.exit_code == 0, result.output
    return result.output


def snapshot(command):
    return FOLDER / f"{command.replace(' ', '-') or 'reelray'}.txt"


@pytest.mark.skipif(
    typer.__version__ != WRITTEN_WITH.read_text().strip(), reason="another Typer lays the same help out differently"
)
@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_as_written(command):
    written, now = snapshot(command).read_text().splitlines(), help_of(command).splitlines()
    changes = "\n".join(difflib.unified_diff(written, now, lineterm=""))
    assert not changes, f"{changes}\n\nIf this is wanted: python -m tests.cluster.cli.test_help"


def test_every_command_has_a_snapshot():
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    for group in app.registered_groups:
        inside = {command.name or command.callback.__name__ for command in group.typer_instance.registered_commands}
        names |= {group.name} | {f"{group.name} {command}" for command in inside}
    assert names == set(COMMANDS) - {""}
    assert {path.stem for path in FOLDER.glob("*.txt")} == {snapshot(command).stem for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_a_line_for_every_option(command):
    for line in help_of(command).splitlines():
        assert len(line) <= 100
        assert "None" not in line


if __name__ == "__main__":
    WRITTEN_WITH.write_text(typer.__version__ + "\n")
    for name in COMMANDS:
        snapshot(name).write_text(help_of(name))
