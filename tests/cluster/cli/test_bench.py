"""`reelray bench`: what is refused before a rank starts."""

from dataclasses import replace

import pytest

from reelray.cluster.services import default_services
from reelray.cluster.settings import Settings


@pytest.fixture
def bench(cli):
    cli.services = replace(default_services(), load_settings=lambda: Settings(data_dir=cli.cwd / "data"))
    return lambda *arguments: cli.run("bench", "parallel", "--device", "cpu", *arguments)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--gpus", "1"], "gpus is 1; layouts are compared on at least 2"),
        (["--runs", "0"], "runs is 0"),
        (["--warmup", "-1"], "warmup is -1"),
        (["--limit", "0"], "limit is 0 s"),
        (["--model", "wan2.1-15b"], "unknown model 'wan2.1-15b'"),
        (["--model", "sprites", "--tiny"], "--tiny shrinks a preset"),
        (["--model", "wan2.1-1.3b", "--layouts", "ulysses=3"], "lanes of 3 ranks, which do not divide 4"),
        (["--model", "wan2.1-1.3b", "--layouts", "pipe=2"], "splits the layers"),
        (["--model", "wan2.1-1.3b", "--layouts", "tensor=2"], "layout axis 'tensor' is unknown"),
        (["--model", "wan2.1-1.3b", "--layouts", ";"], "name at least one"),
        (["--model", "sprites", "--gpus", "8", "--layouts", "ulysses=8"], "splits the heads over 8 ranks"),
        (["--model", "wan2.1-1.3b", "--head-groups", "1,x"], "head groups are '1,x'"),
        (["--model", "wan2.1-1.3b", "--against", "sglang"], "--against is 'sglang'; allowed are diffusers, xfuser"),
        (["--model", "wan2.1-1.3b", "--measure", "speed"], "--measure is 'speed'"),
        (["--model", "wan2.1-1.3b", "--table", "no.json"], "--table no.json: numbers: Field required"),
        (["--size", "100x100"], "nearest size"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(bench, cli, arguments, word):
    (cli.cwd / "no.json").write_text('{"name": "no", "about": "nothing"}')
    ran = bench(*arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert word in ran.error_lines[0]


def test_missing_gpus_are_said(bench, cli):
    ran = bench("--device", "cuda", "--model", "wan2.1-1.3b", "--gpus", "64")
    assert (ran.code, ran.out) == (5, "")
    assert "64 GPUs are wanted and torch sees " in ran.error_lines[0]
    assert cli.files() == []
