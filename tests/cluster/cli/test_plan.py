"""`reelray plan`."""

import json
import re
from dataclasses import replace

import pytest

from reelray.cluster.services import default_services
from reelray.cluster.settings import Settings


@pytest.fixture
def plan(cli):
    """`reelray plan` with the real catalog and no checkpoint but the embedded one."""
    cli.services = replace(default_services(), load_settings=lambda: Settings(data_dir=cli.cwd / "data"))
    return lambda *arguments: cli.run("plan", *arguments)


def test_the_table_is_printed_and_the_choice_explained(plan):
    ran = plan("--model", "wan2.1-14b", "--size", "1280x720", "--frames", 81, "--gpus", 4)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0].startswith("wan2.1-t2v-14b: 1280x720, 81 frames, 50 steps (guided); 75600 tokens, 100 forwards")
    assert lines[1] == "4 GPUs of 139.0 GiB joined by nvlink; times as table h200 has them"
    assert lines[3].split() == [
        "layout",
        "weights",
        "ms/step",
        "s/clip",
        "GiB/GPU",
        "sent",
        "MB/step",
        "comm.",
        "verdict",
    ]
    chosen = [line for line in lines if line.endswith("chosen")]
    assert len(chosen) == 1
    assert chosen[0].split()[:2] == ["cfg=2,ulysses=2", "resident"]
    assert "and 5 more (--json lists all)" in lines
    assert lines[-1].startswith("cfg=2,ulysses=2 makes a clip in 288 s")
    assert max(len(line) for line in lines[:-1]) <= 120


def test_json_holds_every_row_and_every_term(plan):
    told = json.loads(plan("-m", "wan2.1-t2v-14b", "--gpus", 4, "--json").out)
    assert (told["model"], told["gpus"], told["tokens"], told["forwards"]) == ("wan2.1-t2v-14b", 4, 75600, 100)
    assert len(told["rows"]) == 17
    assert told["chosen"] in told["rows"]
    row = told["chosen"]
    assert (row["layout"], row["axes"]["cfg"], row["axes"]["ulysses"]) == ("cfg=2,ulysses=2", 2, 2)
    assert row["step_ms"] == pytest.approx(sum(row["terms_ms"].values()))
    assert row["denoise_s"] == pytest.approx(50 * row["step_ms"] / 1000)
    assert row["peak_bytes"] == max(row["stage_bytes"].values())
    assert [place["decode_ranks"] for place in told["placements"]] == [0, 1, 2]
    assert told["explanation"]


def test_a_layout_is_shown_with_its_terms(plan):
    ran = plan("--model", "wan2.1-1.3b", "--gpus", 4, "--layout", "ring=2,ulysses=2", "--guidance", 1)
    assert ran.code == 0
    assert "ms per step: gemm " in ran.out
    assert ", ring " in ran.out
    assert "(unguided)" in ran.out
    assert "GiB on the fullest GPU: context " in ran.out


def test_small_cards_are_told_what_to_do(plan):
    ran = plan("--model", "wan2.1-14b", "--gpu-memory", "24GiB")
    assert ran.code == 0
    assert "Weights are offloaded, encoder released: all resident, a GPU would need" in ran.out


def test_nothing_fits(plan):
    ran = plan("--model", "wan2.1-14b", "--gpu-memory", "8 GB")
    assert (ran.code, ran.err) == (5, "")
    assert "Nothing fits" in ran.out
    told = json.loads(plan("--model", "wan2.1-14b", "--gpu-memory", "8GB", "--json").out)
    assert told["chosen"] is None
    assert told["gpu_memory_bytes"] == 8_000_000_000


def test_the_embedded_model_and_folders_are_planned(plan, cli, tiny_t2v):
    assert plan().out.startswith("sprites: 192x128, 81 frames, 20 steps (guided); 2016 tokens, 40 forwards\n1 GPU of ")
    ran = plan("--model", tiny_t2v)
    assert ran.code == 0
    assert not cli.engine.requests


def test_approximations_are_marked_and_chosen_only_where_asked_for(plan):
    slow = ("--model", "wan2.1-1.3b", "--gpus", 4, "--links", "pcie")
    lines = plan(*slow).out.splitlines()
    marked = [line for line in lines if re.search(r"  approximate, \d patches$", line)]
    assert marked
    assert all("pipe=" in line.split()[0] for line in marked)
    (chosen,) = [line for line in lines if line.endswith("  chosen")]
    assert chosen not in marked
    told = json.loads(plan(*slow, "--json").out)
    assert told["chosen"]["approximate"] is False
    assert {row["exact_steps"] for row in told["rows"] if row["approximate"]} == {4}
    ran = plan(*slow, "--patches", 4, "--exact-steps", 2)
    (chosen,) = [line for line in ran.out.splitlines() if line.endswith("chosen, approximate")]
    assert "pipe=" in chosen.split()[0]
    assert "It is approximate after the first 2 steps: 4 patches, keys one step old" in ran.out
    forced = plan(*slow, "--layout", "pipe=2", "--patches", 8)
    assert ", stale " in forced.out
    assert "chosen, approximate" in forced.out


def test_json_tells_the_layouts_of_a_gang_that_serves_several(plan):
    lanes = json.loads(plan("-m", "wan2.1-14b", "--size", "1280x720", "--gpus", 4, "--json").out)["lanes"]
    assert lanes["requests"] == {"1": "cfg=2,ulysses=2", "2": "replica=2,cfg=2", "3": "replica=4", "4": "replica=4"}
    assert lanes["unguided_requests"]["1"] == "ulysses=4"
    assert lanes["layouts"] == [row["layout"] for row in lanes["rows"]]
    assert (lanes["blocks"], lanes["left_out"]) == ("resident", {})
    assert lanes["explanation"].startswith("A gang of 4 that is regrouped")
    assert json.loads(plan("-m", "wan2.1-14b", "--json").out)["lanes"] is None
    assert json.loads(plan("-m", "wan2.1-14b", "--gpus", 2, "--gpu-memory", "8GB", "--json").out)["lanes"] is None


def test_memory_of_graphs_is_told(plan):
    ran = plan("--model", "wan2.1-1.3b", "--frames", 9, "--layout", "ulysses=1")
    assert ", graphs 0.21" in ran.out


def test_decode_gpus_are_named(plan):
    ran = plan("--model", "wan2.1-1.3b", "--steps", 1, "--guidance", 1, "--gpus", 8)
    assert " + 4 decode  resident" in ran.out
    assert "Decode runs on 4 GPUs of its own" in ran.out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--gpus", "0"], "gpus is 0; a plan is made for 1 to 64"),
        (["--gpus", "65"], "gpus is 65"),
        (["--model", "wan2.1-15b"], "unknown model 'wan2.1-15b'"),
        (["--model", "./nowhere"], "'./nowhere' does not exist"),
        (["--layout", "cfg=2"], "needs 2 GPUs; the machine has 1"),
        (["--gpus", "2", "--layout", "cfg=2", "--guidance", "1"], "this job runs without guidance"),
        (["--gpus", "8", "--layout", "ulysses=8"], "splits the heads over 8 ranks; the model has 4"),
        (["--gpus", "2", "--links", "none", "--layout", "ring=2"], "nothing links them"),
        (["--layout", "tensor=2"], "layout axis 'tensor' is unknown"),
        (["--gpu-memory", "24"], "GPU memory is '24'; write an amount such as 24GiB or 80GB"),
        (["--gpu-memory", "0GiB"], "GPU memory is '0GiB'"),
        (["--frames", "80"], "80 frames cannot be made"),
        (["--size", "100x100"], "nearest size: 96x96"),
        (["--steps", "0"], "steps is 0"),
        (["--guidance", "-1"], "guidance is -1"),
        (["--links", "wifi"], "wifi"),
        (["--patches", "4"], "no layout of these GPUs splits the layers"),
        (["--gpus", "2", "--layout", "ulysses=2", "--patches", "4"], "does not split the layers"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(plan, arguments, word):
    ran = plan(*arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert word in ran.error_lines[0]
