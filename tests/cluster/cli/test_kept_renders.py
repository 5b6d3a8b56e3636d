"""`reelray submit`, `jobs`, `watch`, `cancel` and `fetch` against a server, with a worker that the test leads."""

import json
import re

import pytest

from reelray.cluster.gateway.callers import Callers
from reelray.cluster.gateway.server import Guard
from tests.support.archive import in_background
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import serve

TOKEN = "a-token-of-length"


@pytest.fixture
def at(shelf):
    with serve(FakeEngine(), shelf=shelf) as address:
        yield ("--server", address)


def make(hands, *parts):
    hands.claim()
    for part in parts:
        hands.progress("denoise", 1, 4)
        hands.commit(part)
    hands.finish()


def test_from_submit_to_the_file(cli, at, hands):
    ran = cli.run("submit", "a disc", "--seed", 5, "--frames", 9, "--priority", 3, *at)
    render_id = ran.out.strip()
    assert (ran.code, bool(re.fullmatch("[0-9a-f]{32}", render_id))) == (0, True)
    assert "9 frames" in ran.err
    assert f"reelray fetch {render_id}" in ran.err
    make(hands, b"0123", b"4567")
    watched = cli.run("watch", render_id, *at)
    assert (watched.code, watched.out) == (0, "")
    assert watched.err.splitlines()[-1] == f"{render_id} is done"
    assert "denoising 1/4 steps" in watched.err
    fetched = cli.run("fetch", render_id, "-o", "a.mp4", "--json", *at)
    assert json.loads(fetched.out) == {"id": render_id, "file": "a.mp4", "bytes": 8}
    assert (cli.cwd / "a.mp4").read_bytes() == b"01234567"
    assert cli.files() == ["a.mp4"]
    cli.run("fetch", render_id, *at)
    assert cli.files() == ["a-disc-5.mp4", "a.mp4"]


def test_jobs(cli, at):
    ids = [cli.run("submit", f"a disc {n}", *at).out.strip() for n in range(3)]
    told = cli.run("jobs", *at)
    assert [line.split()[:2] for line in told.out.splitlines()] == [
        ["ID", "STATE"],
        *([render_id, "queued"] for render_id in ids[::-1]),
    ]
    cancelled = cli.run("cancel", ids[0], ids[2], *at)
    assert cancelled.out == f"{ids[0]} is cancelled\n{ids[2]} is cancelled\n"
    listed = json.loads(cli.run("jobs", "--state", "cancelled", "--json", *at).out)
    assert [(job["id"], job["prompt"]) for job in listed] == [(ids[2], "a disc 2"), (ids[0], "a disc 0")]
    assert len(json.loads(cli.run("jobs", "--limit", 2, "--json", *at).out)) == 2


def test_events_as_json_from_a_number_on(cli, at, hands):
    render_id = cli.run("submit", "a disc", *at).out.strip()
    make(hands, b"data")
    lines = [json.loads(line) for line in cli.run("watch", render_id, "--json", *at).out.splitlines()]
    for line in lines:
        line.pop("at")
    assert lines == [
        {"number": 1, "state": "queued"},
        {"number": 2, "state": "running"},
        {"number": 3, "stage": "denoise", "done": 1, "total": 4},
        {"number": 4, "committed": 0},
        {"number": 5, "state": "done"},
    ]
    rest = cli.run("watch", render_id, "--json", "--after", 3, *at).out.splitlines()
    assert [json.loads(line)["number"] for line in rest] == [4, 5]


def test_waiting_ends_with_the_render(cli, at, hands):
    done = in_background(lambda: (wait_for_job(hands), make(hands, b"data")))
    ran = cli.run("submit", "a disc", "--wait", "--json", *at)
    done.join(10)
    told = json.loads(ran.out)
    assert (ran.code, told["state"], told["bytes"], told["fresh"]) == (0, "done", 4, True)


def wait_for_job(hands, count=1):
    while len(hands.do(hands.store.jobs.list("default")).jobs) < count:
        pass


@pytest.mark.parametrize("end", ["fail", "cancel"])
def test_what_does_not_come_out_is_an_exit_code(cli, at, hands, end):
    render_id = cli.run("submit", "a disc", *at).out.strip()
    hands.claim()
    hands.commit(b"head")
    if end == "fail":
        hands.fail("no such colour")
    else:
        cli.run("cancel", render_id, *at)
    code, text = {"fail": (6, "no such colour"), "cancel": (130, "was cancelled")}[end]
    for command in (("watch", render_id), ("fetch", render_id, "-o", "a.mp4")):
        ran = cli.run(*command, *at)
        assert ran.code == code
        assert text in ran.error_lines[0]
    assert not cli.files()


def test_a_fetch_that_was_cut_off_goes_on(cli, at, hands):
    render_id = cli.run("submit", "a disc", *at).out.strip()
    make(hands, b"0123", b"4567")
    partial = cli.cwd / f".a.mp4.{render_id[:12]}.part"
    partial.write_bytes(b"01_")  # what is there is not asked for again
    (cli.cwd / "a.mp4").write_bytes(b"older")
    assert cli.run("fetch", render_id, "-o", "a.mp4", "--no-clobber", *at).code == 4
    assert (cli.cwd / "a.mp4").read_bytes() == b"older"
    assert cli.run("fetch", render_id, "-o", "a.mp4", *at).code == 0
    assert (cli.cwd / "a.mp4").read_bytes() == b"01_34567"
    assert cli.files() == ["a.mp4"]


def test_two_fetches_do_not_write_one_file(cli, at, hands):
    import fcntl

    render_id = cli.run("submit", "a disc", *at).out.strip()
    make(hands, b"0123")
    with (cli.cwd / f".a.mp4.{render_id[:12]}.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        ran = cli.run("fetch", render_id, "-o", "a.mp4", *at)
    assert (ran.code, "another fetch" in ran.err) == (4, True)


def test_a_render_is_fetched_while_it_grows(cli, at, hands):
    render_id = cli.run("submit", "a disc", *at).out.strip()
    making = in_background(lambda: make(hands, *(b"%04d" % n for n in range(50))))
    assert cli.run("fetch", render_id, "-o", "a.mp4", *at).code == 0
    making.join(10)
    assert (cli.cwd / "a.mp4").read_bytes() == b"".join(b"%04d" % n for n in range(50))


BATCH = """
"a disc"
{"prompt": "a star", "seed": 7, "frames": 5, "priority": 9}

{"prompt": "a star", "frames": 18}
{"seed": 1}
{"prompt": "x", "colour": "red"}
{"prompt": "x", "priority": "high"}
not json
{"prompt": "x", "key": 3}
"the last"
"""


def test_a_batch_tells_about_each_line_and_may_be_repeated(cli, at):
    (cli.cwd / "prompts.jsonl").write_text(BATCH)
    ran = cli.run("submit", "--batch", "prompts.jsonl", "--frames", 9, "--key", "monday", *at)
    lines = {line["line"]: line for line in map(json.loads, ran.out.splitlines())}
    assert ran.code == 2
    assert "6 of 9 lines of 'prompts.jsonl' were refused" in ran.error_lines[0]
    assert sorted(lines) == [2, 3, 5, 6, 7, 8, 9, 10, 11]
    made = {n: line for n, line in lines.items() if "id" in line}
    assert {n: (line["prompt"], line["frames"], line["priority"]) for n, line in made.items()} == {
        2: ("a disc", 9, 0),
        3: ("a star", 5, 9),
        11: ("the last", 9, 0),
    }
    wrong = {n: line["error"] for n, line in lines.items() if "error" in line and n not in made}
    texts = {5: "18 frames", 6: "no prompt", 7: "colour", 8: "whole number", 9: "not JSON", 10: "must be text"}
    assert all(text in wrong[n] for n, text in texts.items())
    again = cli.run("submit", "--batch", "prompts.jsonl", "--frames", 9, "--key", "monday", *at)
    repeated = {line["line"]: line for line in map(json.loads, again.out.splitlines()) if "id" in line}
    assert {n: (line["id"], line["fresh"]) for n, line in repeated.items()} == {
        n: (line["id"], False) for n, line in made.items()
    }
    assert len(json.loads(cli.run("jobs", "--json", *at).out)) == 3


def test_where_files_are_gone_a_fetch_leaves_nothing(cli, at, hands):
    render_id = cli.run("submit", "a disc", *at).out.strip()
    make(hands, b"data")
    hands.archive.artifacts.delete_folder("default", render_id)
    ran = cli.run("fetch", render_id, "-o", "a.mp4", *at)
    assert (ran.code, cli.files()) == (2, [])
    assert "not there any more" in ran.error_lines[0]


def test_a_length_that_a_line_says_is_instead_of_the_command_s(cli, at):
    lines = ({"prompt": "by time", "seconds": 1}, {"prompt": "by count", "frames": 5}, {"prompt": "as all"})
    (cli.cwd / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for default, others in ((("--frames", 13), 13), (("--seconds", 2), 33)):
        ran = cli.run("submit", "--batch", "prompts.jsonl", *default, *at)
        assert ran.code == 0
        assert [json.loads(line)["frames"] for line in ran.out.splitlines()] == [17, 5, others]


def test_a_batch_that_is_waited_for(cli, at, hands):
    (cli.cwd / "prompts.jsonl").write_text('"one"\n"two"\n')

    def work():
        wait_for_job(hands, 2)
        make(hands, b"data")
        hands.claim()
        hands.fail("no such colour")

    worker = in_background(work)
    ran = cli.run("submit", "--batch", "prompts.jsonl", "--wait", *at)
    worker.join(10)
    assert ran.code == 6
    states = [(line["line"], line["state"]) for line in map(json.loads, ran.out.splitlines())]
    assert states[2:] == [(1, "done"), (2, "failed")]


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        (("submit",), 2, "no prompt was given"),
        (("submit", "a disc", "--batch", "x.jsonl"), 2, "a prompt and --batch"),
        (("submit", "--batch", "none.jsonl"), 2, "cannot be read"),
        (("submit", "a disc", "--frames", "18"), 2, "18 frames"),
        (("submit", "a disc", "--priority", "101"), 2, "-100 to 100"),
        (("submit", "a disc", "--at", "1s", "a star"), 2, "whole clips"),
        (("jobs", "--state", "lost"), 2, "queued, running"),
        (("watch", "f" * 32), 2, "no job"),
        (("cancel", "../x"), 2, "no render has such an id"),
        (("fetch", "f" * 32, "-o", "a.mp4"), 2, "no job"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, tuple) else "",
)
def test_wrong_input_is_one_line(cli, at, command, code, text):
    ran = cli.run(*command, *at)
    assert (ran.code, len(ran.error_lines)) == (code, 1)
    assert text in ran.error_lines[0]
    assert not cli.files()


def test_the_token_says_whose(cli, shelf):
    callers = Callers({TOKEN: "ann", "another-token-of-length": "bob"})
    with serve(FakeEngine(), shelf=shelf, guard=Guard(callers=callers)) as address:
        ann, bob = (("--server", address, "--token", token) for token in (TOKEN, "another-token-of-length"))
        assert cli.run("submit", "a disc", "--server", address).code == 2
        render_id = cli.run("submit", "a disc", *ann).out.strip()
        assert cli.run("watch", render_id, *bob).code == 2
        assert json.loads(cli.run("jobs", "--json", *bob).out) == []
        assert json.loads(cli.run("jobs", "--json", *ann).out)[0]["id"] == render_id


def test_a_server_that_keeps_nothing_says_so(cli):
    with serve(FakeEngine()) as address:
        assert cli.run("jobs", "--server", address).code == 2
