"""`--gpus` and `--layout`: what is chosen, and what is refused before anything is loaded."""

import json
from dataclasses import replace

import pytest

import reelray
from reelray.cluster import python_api
from reelray.cluster.machine import Gpu
from reelray.cluster.services import default_services
from reelray.cluster.settings import Settings
from reelray.proto.chunking import Chunking
from reelray.proto.errors import InputError
from reelray.proto.layout import Layout
from reelray.proto.patching import Patching

SMALL = ("--size", "64x64", "--frames", 9, "--steps", 3)


class Calls(list):
    def __init__(self):
        super().__init__()
        self.residencies = []
        self.decode_ranks = []


@pytest.fixture
def opened(cli):
    """Where engines were opened for the embedded checkpoint: (kind, device, layout), and how in `residencies`."""
    calls = Calls()

    def open_engine(kind, _model, device, placement, residency):
        calls.append((kind, device, placement.layout))
        calls.decode_ranks.append(placement.decode_ranks)
        calls.residencies.append(residency)
        return cli.engine

    services = replace(default_services(), open_engine=open_engine, load_settings=lambda: Settings(device="cpu"))
    cli.services = services
    return calls


@pytest.fixture
def machine(monkeypatch):
    def has(gpus, memory_bytes=2**37):
        gpu = Gpu(name="H200", memory_bytes=memory_bytes, capability="9.0", driver="1")
        monkeypatch.setattr("reelray.cluster.gpu_count.list_gpus", lambda: [gpu] * gpus)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    has(0)
    return has


@pytest.fixture
def render(cli):
    return lambda *arguments: cli.run("render", "a red circle", "-o", "a.npy", *arguments)


@pytest.mark.usefixtures("machine")
class TestOnCpus:
    def test_one_rank_unless_asked(self, render, opened):
        ran = render(*SMALL)
        assert render(*SMALL, "--gpus", 1).code == ran.code == 0
        assert opened == [("ray", "cpu", Layout())] * 2
        assert "layout" not in ran.err

    def test_the_plan_chooses_and_says_why(self, render, opened):
        said = render(*SMALL, "--gpus", 2, "--engine", "local").err
        assert opened == [("local", "cpu", Layout(cfg=2))]
        assert "layout cfg=2 on 2 CPU processes: the fastest by the plan, ahead of one rank (+" in said

    def test_without_guidance_more_ranks_do_not_help_a_small_picture(self, render, opened):
        said = render(*SMALL, "--gpus", 2, "--guidance", 1).err
        assert opened[0][2] == Layout()
        assert (
            "layout one rank on 1 of 2 CPU processes: more ranks would gain nothing by the plan, as ring=2 (+" in said
        )

    def test_a_picture_too_small_for_so_many_ranks(self, render, opened):
        said = render("--size", "16x16", "--frames", 9, "--steps", 3, "--gpus", 4).err
        assert opened[0][2] == Layout(cfg=2)
        assert "on 2 of 4 CPU processes: no layout of more ranks is possible" in said

    def test_a_layout_is_taken_as_asked(self, render, opened):
        assert (
            "layout ring=2,ulysses=2 on 4 CPU processes, as asked" in render(*SMALL, "--layout", "ulysses=2,ring=2").err
        )
        assert opened[0][2] == Layout(ring=2, ulysses=2)

    def test_ranks_of_their_own_decode_if_asked_for(self, render, opened):
        said = render(*SMALL, "--gpus", 2, "--decode-ranks", 1).err
        render(*SMALL, "--gpus", 2, "--decode-ranks", 0)
        render(*SMALL, "--gpus", 2, "--decode-ranks", "auto")
        assert opened.decode_ranks == [1, 0, 0]
        assert [layout.ranks for _, _, layout in opened] == [1, 2, 2]
        assert "decode on a rank of its own, as asked" in said

    def test_settings_ask_too_and_either_option_sets_both_aside(self, cli, render, opened):
        cli.services = replace(
            cli.services, load_settings=lambda: Settings(device="cpu", gpus=4, layout="cfg=2,ulysses=2")
        )
        render(*SMALL)
        render(*SMALL, "--gpus", 2)
        render(*SMALL, "--layout", "ulysses=2")
        assert [layout for _, _, layout in opened] == [Layout(cfg=2, ulysses=2), Layout(cfg=2), Layout(ulysses=2)]

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            (("--layout", "replica=2"), "renders several videos at once, and this is one"),
            (("--layout", "ulysses=8"), "splits the heads over 8 ranks; the model has 4"),
            (("--layout", "cfg=2", "--guidance", 1), "this job runs without guidance"),
            (("--layout", "ring=8", "--size", "32x32"), "a latent frame of this size has 4"),
            (("--layout", "tensor=2"), "layout axis 'tensor' is unknown"),
            (("--layout", "cfg=2,ulysses=2", "--gpus", 2), "needs 4 GPUs; the machine has 2"),
            (("--gpus", 0), "gpus is 0; it must lie in 1..64"),
            (("--gpus", 65), "gpus is 65"),
            (("--gpus", 2, "--decode-ranks", 2), "decode_ranks is 2 of 2 ranks in all, and somebody must denoise too"),
            (("--decode-ranks", 1), "take --gpus 2"),
            (("--gpus", 2, "--decode-ranks", "few"), "decode_ranks is 'few'; it must be 'auto' or a whole number"),
        ],
    )
    def test_what_cannot_be_is_refused_at_once(self, render, opened, arguments, word):
        ran = render(*SMALL, *arguments)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert word in ran.error_lines[0]
        assert opened == []

    def test_cuda_without_a_gpu(self, render, opened):
        ran = render(*SMALL, "--gpus", 2, "--device", "cuda")
        assert ran.code == 5
        assert "2 GPUs were asked for, this machine has 0; with --device cpu" in ran.error_lines[0]
        assert opened == []

    def test_python_takes_both(self, monkeypatch, cli, opened):
        monkeypatch.setattr(python_api, "default_services", lambda: cli.services)
        wish = {"size": "64x64", "frames": 9, "steps": 3}
        reelray.render("a red circle", **wish, gpus=2)
        reelray.render("a red circle", **wish, layout=Layout(ulysses=2))
        assert [layout for _, _, layout in opened] == [Layout(cfg=2), Layout(ulysses=2)]
        for name, value in (("gpus", "2"), ("gpus", True), ("layout", 2)):
            with pytest.raises(InputError, match=f"{name} is {value!r}; it must be"):
                reelray.render("a red circle", **wish, **{name: value})

    def test_weights_are_where_they_are_asked_to_be(self, cli, render, opened):
        render(*SMALL)
        render(*SMALL, "--weights", "offloaded", "--encoder", "released")
        cli.services = replace(cli.services, load_settings=lambda: Settings(device="cpu", weights="offloaded"))
        render(*SMALL)
        render(*SMALL, "--weights", "auto", "--gpus", 2)
        render(*SMALL, "--weights", "sharded", "--gpus", 2)
        assert list(map(str, opened.residencies)) == [
            "resident",
            "offloaded, encoder released",
            "offloaded",
            "resident",
            "sharded",
        ]

    def test_one_rank_cannot_share(self, render, opened):
        ran = render(*SMALL, "--weights", "sharded")
        assert (ran.code, opened) == (2, [])
        assert "weights cannot be sharded: one rank holds all of them" in ran.error_lines[0]


@pytest.mark.usefixtures("machine", "opened")
class TestPatches:
    WISH = ("--layout", "pipe=2", "--patches", 2, "--exact-steps", 1)

    def test_it_is_said_wherever_it_shows(self, cli):
        ran = cli.run("render", "a red circle", "-o", "a.mp4", *SMALL, *self.WISH, "--json")
        (request,) = cli.engine.requests
        assert request.patching == Patching(patches=2, exact_steps=1)
        assert (
            "layout pipe=2 on 2 CPU processes, as asked; approximate after the first step: 2 patches, keys one step old"
            in ran.err
        )
        told = json.loads(ran.out)
        assert (told["approximate"], told["patches"], told["exact_steps"]) == (True, 2, 1)
        inside = json.loads(cli.run("info", "a.mp4", "--json").out)
        assert (inside["approximate"], inside["patches"], inside["exact_steps"]) == (True, 2, 1)
        exact = cli.run("render", "a red circle", "-o", "b.mp4", *SMALL, "--layout", "pipe=2", "--json")
        assert json.loads(exact.out)["approximate"] is False
        assert "approximate" not in exact.err
        assert "approximate" not in cli.run("info", "b.mp4", "--json").out
        assert cli.engine.requests[1].patching is None

    def test_the_plan_finds_a_layout_for_it(self, cli, render, opened):
        ran = render(*SMALL, "--steps", 9, "--gpus", 4, "--patches", 2)
        assert opened[0][2].pipe > 1
        assert opened[0][2].sequence == 1
        assert cli.engine.requests[0].patching.exact_steps == 4
        assert "the fastest by the plan, ahead of " in ran.err
        assert "approximate after the first 4 steps: 2 patches" in ran.err

    def test_python_takes_it_too(self, monkeypatch, cli):
        monkeypatch.setattr(python_api, "default_services", lambda: cli.services)
        wish = {"size": "64x64", "frames": 9, "steps": 3, "layout": "pipe=2"}
        reelray.render("a red circle", **wish, patches=2, exact_steps=2)
        assert cli.engine.requests[0].patching == Patching(patches=2, exact_steps=2)
        for name, value in (("patches", "2"), ("patches", True), ("exact_steps", 1.5)):
            with pytest.raises(InputError, match=f"{name} is {value!r}; it must be a whole number"):
                reelray.render("a red circle", **{**wish, "patches": 2, name: value})

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            (("--patches", 2), "patches flow through layers on several ranks: ask for --layout pipe=2"),
            (("--patches", 2, "--layout", "ulysses=2"), "layout ulysses=2 does not split the layers"),
            (("--patches", 2, "--layout", "pipe=2,ring=2"), "splits the tokens"),
            (("--patches", 2, "--layout", "pipe=2"), "exact steps are 4 of 3 steps; patches would do nothing"),
            (("--patches", 1, "--layout", "pipe=2"), "patches is 1; it must be at least 2"),
            (("--patches", 0, "--layout", "pipe=2"), "patches is 0"),
            (("--patches", 17, "--exact-steps", 1, "--layout", "pipe=2"), "a latent frame of this size has 16 tokens"),
            (("--exact-steps", 2, "--layout", "pipe=2"), "exact steps without patches say nothing"),
            ((*WISH, "--weights", "offloaded"), "weights offloaded would come once for every patch"),
        ],
    )
    def test_what_cannot_be_is_refused_at_once(self, render, opened, arguments, word):
        ran = render(*SMALL, *arguments)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert word in ran.error_lines[0]
        assert opened == []

    def test_a_stream_is_refused(self, render, opened, monkeypatch):
        monkeypatch.setattr(
            "reelray.cluster.render.choose_recipe",
            lambda _options, recipe: replace(recipe, chunking=Chunking(latent_frames=1)),
        )
        ran = render(*SMALL, *self.WISH)
        assert (ran.code, opened) == (2, [])
        assert "patches are for whole clips, and this one is made chunk by chunk" in ran.error_lines[0]


class TestOnGpus:
    def test_as_many_as_there_are(self, render, opened, machine):
        machine(4)
        ran = render("--gpus", 4, "--device", "auto", "--size", "960x960", "--frames", 49)
        assert opened == [("ray", "auto", Layout(cfg=2, ulysses=2))]
        assert "layout cfg=2,ulysses=2 on 4 GPUs: " in ran.err

    def test_no_more_than_there_are(self, render, opened, machine, monkeypatch):
        machine(2)
        ran = render("--gpus", 4, "--device", "cuda")
        assert (ran.code, ran.error_lines) == (5, ["reelray: error: 4 GPUs were asked for, this machine has 2"])
        machine(8)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
        assert "this machine has 2" in render("--layout", "cfg=2,ulysses=2", "--device", "auto").err
        assert opened == []

    def test_what_does_not_fit_is_tried_and_said(self, render, machine, opened):
        machine(2, memory_bytes=2**26)
        assert "by the plan none fits, and this one needs least" in render("--gpus", 2, "--device", "cuda").err
        assert opened[0][2].ranks <= 2
