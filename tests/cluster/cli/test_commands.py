"""The small commands."""

import json
import os
from dataclasses import replace

import reelray
from reelray.cluster.settings import Settings


def test_version(cli):
    for arguments in (["version"], ["--version"]):
        ran = cli.run(*arguments)
        assert (ran.code, ran.out, ran.err) == (0, f"reelray {reelray.__version__}\n", "")


def test_no_arguments_shows_help(cli):
    ran = cli.run()
    assert (ran.code, ran.out, ran.error_lines) == (2, "", [])
    assert "Commands:\n  render" in ran.err


def test_models(cli):
    ran = cli.run("models")
    assert ran.code == 0
    assert ran.out.splitlines()[1].split()[:3] == ["fake", "t2v", "96x64"]
    listed = json.loads(cli.run("models", "--json").out)
    assert listed[0]["name"] == "fake"
    assert listed[0]["problem"] is None


def test_doctor(cli):
    ran = cli.run("doctor", "--json")
    report = json.loads(ran.out)
    assert (ran.code, report["can_render"]) == (0, True)
    assert report["versions"]["torch"]
    assert "This machine can render." in cli.run("doctor").out


def test_doctor_fails_only_when_nothing_can_be_rendered(cli):
    (cli.cwd.parent / "models" / "fake" / "manifest.yaml").unlink()
    ran = cli.run("doctor")
    assert ran.code == 1
    assert "ERROR" in ran.out
    assert ran.err == ""


def test_info_reads_back_what_was_rendered(cli):
    cli.run("render", "a red circle", "-o", "a.webm", "--seed", 5)
    facts = json.loads(cli.run("info", "a.webm", "--json").out)
    assert (facts["prompt"], facts["seed"], facts["frames"], facts["format"]) == ("a red circle", 5, 17, "vp9")
    assert "a red circle" in cli.run("info", "a.webm").out
    ran = cli.run("info", "none.mp4")
    assert (ran.code, ran.error_lines) == (2, ["reelray: error: 'none.mp4' does not exist"])
    ran = cli.run("info", "")
    assert (ran.code, ran.error_lines) == (2, ["reelray: error: FILE is empty; give a video or a folder of PNGs"])


def test_settings(cli):
    assert "REELRAY_MODEL_PATH = " in cli.run("settings").out
    assert json.loads(cli.run("settings", "--json").out)["model"] == "fake"


def test_settings_are_shown_as_they_are_written(cli):
    cli.services = replace(cli.services, load_settings=lambda: Settings(model_path=("/a", "/b")))
    assert f"REELRAY_MODEL_PATH = /a{os.pathsep}/b\n" in cli.run("settings").out


def test_unknown_command(cli):
    ran = cli.run("rendr")
    assert ran.code == 2
    assert "rendr" in ran.error_lines[0]
