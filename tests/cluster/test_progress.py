"""What people see while a render runs."""

import io

import pytest
from rich.console import Console

from reelray.cluster.progress import LiveView, PlainView, QuietView, create_view
from reelray.proto.events import Progress, Stage
from reelray.proto.request import RequestId


def progress(stage, done, total):
    return Progress(request_id=RequestId("r"), stage=stage, done=done, total=total)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_plain_lines_come_at_quarters_with_rate_and_time_left():
    stream, clock = io.StringIO(), Clock()
    view = PlainView(stream, clock)
    for done in range(1, 41):
        view.update(progress(Stage.DENOISE, done, 40))
        clock.now += 0.5
    lines = stream.getvalue().splitlines()
    assert lines == [
        "denoising 1/40 steps",
        "denoising 10/40 steps, 2.0 steps/s, 15 s left",
        "denoising 20/40 steps, 2.0 steps/s, 10 s left",
        "denoising 30/40 steps, 2.0 steps/s, 5 s left",
        "denoising 40/40 steps, 2.0 steps/s, 0 s left",
    ]


def test_stages_without_units_say_one_line():
    stream = io.StringIO()
    view = PlainView(stream)
    for done in (0, 1):
        view.update(progress(Stage.LOAD, done, 1))
    view.update(progress(Stage.TEXT, 1, 1))
    assert stream.getvalue().splitlines() == ["loading the model", "reading the prompt"]


@pytest.mark.parametrize("total", [0, 1])
def test_odd_totals_do_no_harm(total):
    for view in (PlainView(io.StringIO()), LiveView(Console(file=io.StringIO(), force_terminal=True))):
        with view:
            view.update(progress(Stage.DECODE, total, total))


def test_live_view_draws_stage_count_and_lines_of_others():
    stream = io.StringIO()
    with LiveView(Console(file=stream, force_terminal=True, width=100)) as view:
        view.say("seed [7]")
        view.update(progress(Stage.DENOISE, 3, 20))
        view.update(progress(Stage.DECODE, 5, 81))
    text = stream.getvalue()
    for part in ("seed [7]", "denoising", "3/20", "decoding", "5/81"):
        assert part in text


def test_view_fits_the_stream():
    assert isinstance(create_view(io.StringIO(), quiet=False), PlainView)
    assert isinstance(create_view(io.StringIO(), quiet=True), QuietView)

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert isinstance(create_view(Terminal(), quiet=False), LiveView)


def test_quiet_view_prints_nothing(capsys):
    with QuietView() as view:
        view.say("x")
        view.update(progress(Stage.DENOISE, 1, 1))
    assert capsys.readouterr() == ("", "")


class BrokenStream(io.StringIO):
    def write(self, _text):
        raise BrokenPipeError(32, "Broken pipe")


def test_a_reader_that_is_gone_stops_nothing():
    view = create_view(BrokenStream(), quiet=False)
    view.update(progress(Stage.DENOISE, 1, 2))
    view.update(progress(Stage.DENOISE, 2, 2))


def test_a_closed_standard_error_shows_nothing():
    closed = io.StringIO()
    closed.close()
    assert isinstance(create_view(None, quiet=False), QuietView)
    assert isinstance(create_view(closed, quiet=False), QuietView)
