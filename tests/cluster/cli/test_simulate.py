"""`reelray simulate`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reelray.cluster.services import default_services
from reelray.cluster.settings import Settings
from reelray.cluster.simulation_costs import CostBook, EngineKind
from reelray.cluster.simulation_request import list_traces, read_happenings
from reelray.scheduler.fleet.ticket import Kind
from reelray.scheduler.simulation.arrival import Shape

MODEL = ("--model", "wan2.1-1.3b")


@pytest.fixture
def simulate(cli):
    """`reelray simulate` with the real catalog and no checkpoint but the embedded one."""
    cli.services = replace(default_services(), load_settings=lambda: Settings(data_dir=cli.cwd / "data"))
    return lambda *arguments: cli.run("simulate", *arguments)


def test_a_table_tells_what_became_of_the_requests(simulate):
    ran = simulate("--trace", "failure", *MODEL, "--gpus", 16)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "16 GPUs in engines of 8, wan2.1-1.3b, policy fair; times as table h200 has them"
    assert lines[2].split()[:6] == ["requests", "came", "done", "refused", "deadlines", "met"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[3:5]}
    assert set(rows) == {"interactive", "batch"}
    for came, done, refused, *_ in rows.values():
        assert int(came) == int(done) + int(refused)
    assert lines[-1].startswith("makespan ")
    assert max(len(line) for line in lines) <= 120


def test_json_holds_what_the_table_holds(simulate):
    trace = "poisson:rate=0.5,interactive=0.3,seconds=300,tenants=2"
    told = json.loads(simulate("--trace", trace, *MODEL, "--gpus", 1024, "--json").out)
    assert (told["gpus"], told["engine_gpus"], told["policy"], told["table"]) == (1024, 8, "fair", "h200")
    assert [group["group"] for group in told["groups"]] == ["interactive", "batch"]
    assert sum(group["requests"] for group in told["groups"]) > 100
    assert told["groups"][0]["met"] == 1.0
    assert 0 < told["utilisation"] < 0.1
    assert set(told["groups"][0]["wait_s"]) == {"50", "90", "99"}


def test_policies_differ_and_the_same_line_says_the_same_again(simulate):
    def run(policy):
        arguments = ("--trace", "burst", *MODEL, "--gpus", 4, "--engine-gpus", 1, "--policy", policy, "--json")
        return json.loads(simulate(*arguments).out)

    fair, turns = run("fair"), run("turns")
    assert run("fair") == fair
    assert fair["groups"][0]["met"] > 0.95
    assert turns["groups"][0]["met"] < 0.5  # they stand behind the burst


def test_a_plot_is_drawn(simulate, cli):
    path = cli.cwd / "waits.png"
    assert simulate("--trace", "mixed", *MODEL, "--gpus", 8, "--plot", path).code == 0
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    ran = simulate("--trace", "mixed", *MODEL, "--plot", cli.cwd / "none" / "waits.png")
    assert ran.code == 4
    assert "cannot write" in ran.err


def test_without_matplotlib_a_plot_is_refused_before_anything_is_simulated(simulate, cli, monkeypatch):
    monkeypatch.setattr("reelray.cluster.simulation_plot.find_spec", lambda _: None)
    ran = simulate("--trace", "none-such", *MODEL, "--plot", cli.cwd / "waits.png")
    assert (ran.code, ran.out) == (2, "")
    assert ran.error_lines == [
        "reelray: error: --plot needs matplotlib, which is not installed: pip install matplotlib"
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--trace", "none-such"), "traces that come with reelray: burst, failure, mixed, streams"),
        (("--trace", "poisson:speed=1"), "is not understood"),
        (("--trace", "poisson:rate=0.001,seconds=1"), "no request comes"),
        (("--trace", "mixed", "--gpus", 4, "--engine-gpus", 8), "4 GPUs in engines of 8"),
        (("--trace", "mixed", "--gpus", 0), "0 GPUs in engines of 1"),
        (("--trace", "mixed", "--policy", "best"), "best"),
        (("--trace", "mixed", "--error", 1), "error is 1"),
        (("--trace", "mixed", "--plot", "waits.txt"), "its ending must be one of"),
        (("--trace", "mixed", "--model", "none-such"), "none-such"),
        (("--trace", "failure", "--engine-gpus", 8), "a fault names engine 1"),
        (("--trace", "/dev/null"), "no requests"),
    ],
)
def test_wrong_options_are_one_clear_line(simulate, arguments, told):
    ran = simulate(*MODEL, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.error_lines) == 1
    assert told in ran.err


def test_a_trace_that_is_no_text_is_one_clear_line(simulate, cli):
    path = cli.cwd / "trace.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    ran = simulate("--trace", path, *MODEL)
    assert ran.code == 2
    assert "it is no text" in ran.err
    path.write_text('{"at": 0, "frames": 18}\n')
    ran = simulate("--trace", path, *MODEL)
    assert ran.code == 2
    assert "18" in ran.err


def test_what_fits_into_no_engine_says_so(simulate):
    ran = simulate("--trace", "mixed", "--model", "wan2.1-14b", "--gpus", 1, "--engine-gpus", 1, "--gpu-memory", "6GiB")
    assert ran.code == 5
    assert "do not fit into 1 GPUs of an engine" in ran.err


@pytest.mark.parametrize("name", ["mixed", "streams", "burst", "failure"])
def test_every_trace_that_is_shipped_can_be_read(name):
    assert name in list_traces()
    assert len(list(read_happenings(name))) > 100


def test_times_and_bytes_are_those_of_the_plan(cli):
    """Held against `reelray plan` itself, layout by layout."""
    services = replace(default_services(), load_settings=lambda: Settings(data_dir=cli.cwd / "data"))
    cli.services = services
    book = CostBook(EngineKind(gpus=4, memory_bytes=149_250_000_000), "wan2.1-1.3b", services)
    cost = book.cost(Shape(frames=81))
    assert sorted(cost.seconds) == [1, 2, 4]
    for gpus, seconds in cost.seconds.items():
        rows = json.loads(cli.run("plan", *MODEL, "--frames", 81, "--gpus", gpus, "--json").out)["rows"]
        alone = [row["clip_s"] for row in rows if row["axes"]["replica"] == 1 and row["axes"]["pipe"] == 1]
        assert seconds == pytest.approx(min(alone), rel=0.011)  # of layouts as fast as each other the simplest is taken
    assert cost.seconds[4] < cost.seconds[2] < cost.seconds[1]
    # A stream is played while it is made: no GPUs make it shorter than it is.
    stream = book.cost(Shape(frames=81, kind=Kind.STREAM))
    assert stream.seconds[4] == max(cost.seconds[4], 81 / 16)


def test_the_simulated_files_are_where_the_package_looks():
    folder = Path(__file__).parents[3] / "reelray" / "scheduler" / "simulation" / "traces"
    assert sorted(path.stem for path in folder.glob("*.jsonl")) == list_traces()


def test_few_gpus_are_one_engine(simulate):
    told = json.loads(simulate("--trace", "burst", *MODEL, "--gpus", 4, "--json").out)
    assert (told["gpus"], told["engine_gpus"]) == (4, 4)
