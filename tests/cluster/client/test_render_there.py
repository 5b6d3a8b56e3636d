"""`reelray render --server`: the same options, the same file."""

import json
import subprocess
import sys

import av
import numpy as np
import pytest

from reelray.cluster.gateway.callers import Callers
from reelray.cluster.gateway.server import Guard
from reelray.proto.errors import EngineError
from tests.support.commands import CommandLine
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import serve

TOKEN = "a-token-of-length"


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return CommandLine(tmp_path / "work", FakeEngine(), capsys)


OPTIONS = [
    ("--seed", "7"),
    ("--seed", "7", "--seconds", "1:00.5", "--fps", "4", "--size", "64x48"),
    ("--seed", "7", "--frames", "9", "--steps", "3", "--guidance", "1.5", "--negative", "fog"),
    ("--seed", "7", "--sparsity", "radial,decay=0.5,dense_share=0.25"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.npy", "clip.gif"])
def test_the_file_is_the_one_made_here(cli, options, name):
    engine = FakeEngine()
    with serve(engine) as address:
        there = cli.run("render", "a disc", *options, "--server", address, "-o", f"there-{name}", "--json")
    here = cli.run("render", "a disc", *options, "-o", f"here-{name}", "--json")
    assert (there.code, here.code) == (0, 0), there.err
    assert (cli.cwd / f"there-{name}").read_bytes() == (cli.cwd / f"here-{name}").read_bytes()
    told = [json.loads(ran.out) for ran in (there, here)]
    for report in told:
        report.pop("file")
        report.pop("seconds")
    assert told[0] == told[1]
    assert (engine.requests[0].prompt, engine.cancelled) == ("a disc", 0)
    assert (engine.requests[0].sparsity is not None) == ("--sparsity" in options)
    assert told[0]["approximate"] == ("--sparsity" in options)


def test_what_was_left_out_is_told_and_stands_in_the_file(cli):
    with serve(FakeEngine()) as address:
        ran = cli.run("render", "a disc", "--sparsity", "sub_block,density=0.50", "--server", address, "-o", "a.mp4")
        assert "(approximate, 50% of the keys attended in 80% of self-attention)" in ran.err
        ran = cli.run("render", "a disc", "--sparsity", "sub_block", "--server", address, "-o", "b.mp4", "--json")
    told = json.loads(ran.out)
    assert told["attention"] == {"calls": 40, "dense": 8, "density": 0.5, "refusal": None}
    with av.open(str(cli.cwd / "a.mp4")) as file:
        said = json.loads(file.metadata["comment"])
    assert said["sparsity"] == "sub_block,density=0.5"


def test_without_a_name_the_seed_of_the_server_is_in_it(cli):
    with serve(FakeEngine()) as address:
        ran = cli.run("render", "a disc", "--server", address, "--json")
    assert cli.files() == [f"a-disc-{json.loads(ran.out)['seed']}.mp4"]


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--frames", "18"), 2, "18 frames cannot be made"),
        (("--model", "nope"), 2, "models here: fake"),
        (("--gpus", "2", "--device", "cpu"), 2, "--device, --gpus cannot be given with --server"),
        (("--seed", "-1"), 2, "seed is -1"),
        (("--sparsity", "dense"), 2, "begins with a method"),
        (("--sparsity", "sub_block,density=2"), 2, "entries in 0..1"),
        (("--steps", str(2**40)), 2, "steps is"),
        (("--size", "0x0"), 2, "size 0x0"),
        (("--frames", "17", "--seconds", "1"), 2, "both frames and seconds"),
    ],
)
def test_wrong_input_is_one_line_and_no_file(cli, options, code, text):
    with serve(FakeEngine()) as address:
        ran = cli.run("render", "a disc", *options, "--server", address)
    assert ran.code == code
    assert text in ran.err
    assert not cli.files()


def test_a_lost_engine_leaves_no_file(cli):
    with serve(FakeEngine(error=EngineError("rank 1 was lost"), fail_at_frame=8)) as address:
        ran = cli.run("render", "a disc", "--server", address, "-o", "clip.mp4")
    assert (ran.code, cli.files()) == (6, [])
    assert ran.error_lines == ["reelray: error: rank 1 was lost"]


def test_nobody_there(cli, monkeypatch):
    from reelray.cluster.client import connection

    monkeypatch.setattr(connection, "CONNECT_S", 0.2)
    ran = cli.run("render", "a disc", "--server", "127.0.0.1:9")
    assert ran.code == 6
    assert "no server answers at 127.0.0.1:9" in ran.err


def test_the_token_goes_along(cli, monkeypatch):
    with serve(FakeEngine(), guard=Guard(callers=Callers({TOKEN: "default"}))) as address:
        assert cli.run("render", "a disc", "--server", address, "-o", "a.npy").code == 2
        assert cli.run("render", "a disc", "--server", address, "-o", "a.npy", "--token", TOKEN).code == 0
        monkeypatch.setenv("REELRAY_TOKEN", TOKEN)
        assert cli.run("render", "a disc", "--server", address, "-o", "b.npy").code == 0
    assert np.load("a.npy").shape == (17, 64, 96, 3)


def test_a_picture_travels(cli):
    from dataclasses import replace

    from PIL import Image

    from tests.support.fake_engine import FACTS, RECIPE, fake_entry

    Image.new("RGB", (300, 200), (9, 200, 30)).save("first.png")
    entry = fake_entry(recipe=replace(RECIPE, task="i2v"), facts=replace(FACTS, task="i2v"))
    engine = FakeEngine()
    with serve(engine, entries=[entry]) as address:
        ran = cli.run("render", "a disc", "--server", address, "--image", "first.png", "--size", "96x64", "-o", "a.npy")
    assert ran.code == 0, ran.err
    assert engine.requests[0].image == bytes((9, 200, 30)) * (96 * 64)


@pytest.mark.parametrize(
    "command", [("render", "a disc", "--server", "localhost"), ("serve", "--no-supervise")], ids=lambda c: c[0]
)
def test_without_grpc_the_error_says_what_to_install(command):
    code = f"import sys; sys.modules['grpc'] = None; from reelray.cluster.cli import main; sys.exit(main({[*command]}))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "pip install 'reelray[serve]'" in ran.stderr
