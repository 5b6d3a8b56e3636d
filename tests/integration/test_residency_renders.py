"""The embedded checkpoint renders the same bytes wherever its weights are."""

import json
from dataclasses import replace

import numpy as np
import pytest

from reelray.cluster.checkpoint_loader import CheckpointLoader
from reelray.cluster.local_engine import LocalEngine
from reelray.cluster.model_catalog import PACKAGED
from reelray.cluster.services import default_services
from reelray.proto.errors import InputError
from reelray.proto.events import Done, Frames
from reelray.proto.layout import Layout
from reelray.proto.recipe import Guidance
from reelray.proto.residency import Blocks, Encoder, Residency
from reelray.workers.engine.gang import GangSpec
from tests.support.commands import CommandLine
from tests.support.requests import make_recipe, make_request

SHARDED = Residency(blocks=Blocks.SHARDED, encoder=Encoder.RELEASED)


def loader(residency):
    return CheckpointLoader(path=PACKAGED / "sprites", device="cpu", residency=residency)


def request():
    recipe = replace(make_recipe(steps=3), text_tokens=512, guidance=Guidance(per_step=(3.0, 1.0, 2.0)))
    prompt = "a red circle moves left on a blue background"
    return make_request("a", prompt=prompt, latent_frames=3, recipe=recipe, width=64, height=48)


def collect(engine):
    video, summary = b"", None
    for event in engine.render(request()):
        if isinstance(event, Frames):
            video += event.data
        elif isinstance(event, Done):
            summary = event.summary
    return video, summary


def test_the_command_renders_the_same_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli = CommandLine(tmp_path, None, capsys)
    cli.services = default_services()
    small = ("--size", "64x48", "--frames", 9, "--steps", 2, "--seed", 3, "--engine", "local", "--device", "cpu")
    ways = {
        "plain": (),
        "away": ("--weights", "offloaded", "--encoder", "released"),
    }
    said = {}
    for name, options in ways.items():
        ran = cli.run("render", "a red circle", "-o", f"{name}.mp4", *small, *options, "--json")
        assert ran.code == 0, ran.err
        said[name] = json.loads(ran.out)
    files = [(tmp_path / f"{name}.mp4").read_bytes() for name in ways]
    assert files[0] == files[1]
    assert [(row["weights"], row["encoder"]) for row in said.values()] == [
        ("resident", "resident"),
        ("offloaded", "released"),
    ]


@pytest.mark.usefixtures("forked")
def test_a_gang_with_shared_weights_renders_what_one_rank_renders():
    with LocalEngine.open(loader(Residency())) as engine:
        wanted, _ = collect(engine)
    # In the second step only one branch counts, and the ranks of the other one have to gather all the same.
    spec = GangSpec(load=loader(SHARDED), layout=Layout(cfg=2), start_s=120, stall_s=60)
    with LocalEngine.open_gang(spec) as engine:
        assert engine.description.residency == SHARDED
        for _ in range(2):
            found, summary = collect(engine)
            # ranks share the rows of pictures too, which moves last bits; see the tests of shared blocks for equal bits
            levels, others = (np.frombuffer(video, np.uint8).astype(int) for video in (found, wanted))
            assert abs(levels - others).max() <= 1
            assert (levels != others).mean() <= 0.001
        assert (summary.residency, summary.layout) == (SHARDED, Layout(cfg=2))


def test_one_rank_has_nobody_to_share_with():
    with pytest.raises(InputError, match="this rank has its layers to itself"):
        LocalEngine.open(loader(SHARDED))
