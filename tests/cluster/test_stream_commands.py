"""Lines that are typed while a stream runs."""

import os
import threading

import pytest

from reelray.cluster.spoken_lines import SpokenLines
from reelray.cluster.stream_commands import StreamCommands
from reelray.proto.errors import InputError


class Session:
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def say(self, prompt, at=None, *, cut=False):
        if prompt == "too late":
            raise InputError("the prompt comes\nafter the end")
        self.told.append(("say", prompt, at, "cut") if cut else ("say", prompt, at))
        return 2.5

    def extend(self, time):
        self.told.append(("extend", time))
        return 70.0

    def pause(self):
        self.told.append(("pause",))

    def resume(self):
        self.told.append(("resume",))

    def snapshot(self, path, kind="exact"):
        self.told.append(("snapshot", path, kind))
        return 3.0

    def stop(self):
        self.told.append(("stop",))
        return 12.0


@pytest.mark.parametrize(
    ("line", "told", "answer"),
    [
        ("a cat wakes up", ("say", "a cat wakes up", None), "'a cat wakes up' holds from 2.50 s on"),
        ("/at 1:30 it  runs", ("say", "it  runs", "1:30"), "'it  runs' holds from 2.50 s on"),
        ("/pause", ("pause",), "paused"),
        ("/resume", ("resume",), "it goes on"),
        ("/extend 10s", ("extend", "10s"), "the video now has 70.00 s"),
        ("/stop", ("stop",), "the video ends at 12.00 s"),
        ("/cut  a beach at dawn", ("say", "a beach at dawn", None, "cut"), "'a beach at dawn' holds from 2.50 s on"),
        ("/at 9,cut a beach", ("say", "a beach", "9,cut"), "'a beach' holds from 2.50 s on"),
        ("/snapshot 'my cat.snap'", ("snapshot", "my cat.snap", "exact"), "--from 'my cat.snap' goes on at 3.00 s"),
        ("/snapshot my\\ cat quick", ("snapshot", "my cat", "quick"), "--from 'my cat' goes on at 3.00 s"),
        (
            "/snapshot my cat.snap",
            None,
            "error: 'cat.snap' is no kind of snapshot; the kinds are exact, replay, quick,",
        ),
        ("/snapshot my cat snap", None, "error: /snapshot takes a file and perhaps a kind"),
        ("/snapshot ''", None, "error: /snapshot takes a file"),
        ("/snapshot it's", None, 'error: a quote in "it\'s" does not end; close it'),
        ("/cut", None, "error: /cut takes a prompt"),
        ("/snapshot a.snap quick", ("snapshot", "a.snap", "quick"), "--from a.snap goes on at 3.00 s"),
        ("/snapshot", None, "error: /snapshot takes a file"),
        ("/help", None, "a line is the next prompt"),
        ("/hold", None, "error: there is no order /hold; a line is the next prompt"),
        ("/at 10s", None, "error: /at takes a time and a prompt"),
        ("/extend", None, "error: /extend takes a time"),
        ("/stop now", None, "error: /stop takes nothing behind it"),
        ("too late", None, "error: the prompt comes after the end"),
    ],
)
def test_a_line_is_a_prompt_or_an_order_and_is_answered_in_one_line(line, told, answer):
    session, said = Session(), []
    StreamCommands(session, said.append).hear(line)
    assert session.told == ([] if told is None else [told])
    assert said[0].startswith(answer)
    assert len(said) == 1
    assert "\n" not in said[0]


def read_all(*parts):
    """What is heard when these bytes come one after the other."""
    source, sink = os.pipe()
    heard, ended = [], threading.Event()
    lines = SpokenLines(source, heard.append, ended.set)
    for part in parts:
        os.write(sink, part)
        threading.Event().wait(0.05)
    os.close(sink)
    assert ended.wait(10)
    lines.close()
    os.close(source)
    return heard


def test_lines_are_heard_whole_however_they_come():
    star = "ein grüner Stern".encode()
    assert read_all(b"one\ntw", b"o\n\n  \n", star[:6], star[6:]) == ["one", "two", "ein grüner Stern"]
    assert read_all(b"\xff\xfe\n") == ["\ufffd\ufffd"]
    assert read_all() == []


def test_reading_ends_when_it_is_closed_or_there_is_nothing_to_read():
    source, sink = os.pipe()
    ended = threading.Event()
    SpokenLines(source, print, ended.set).close()
    assert not ended.is_set()
    os.close(source)
    os.close(sink)
    lines = SpokenLines(None, print, ended.set)
    assert ended.wait(10)
    lines.close()
