"""Shows how a render goes, on standard error: a live bar on a terminal, plain lines elsewhere, or nothing."""

import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from reelray.proto.events import Progress, Stage

STAGE_TITLES = {
    Stage.LOAD: "loading the model",
    Stage.TEXT: "reading the prompt",
    Stage.DENOISE: "denoising",
    Stage.DECODE: "decoding",
}
UNITS = {Stage.DENOISE: "steps", Stage.DECODE: "frames"}
PLAIN_LINES_PER_STAGE = 4


class ProgressView(Protocol):
    """Shows progress between `__enter__` and `__exit__`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def update(self, progress: Progress) -> None:
        """Show that a stage moved on."""
        ...

    def say(self, line: str) -> None:
        """Show one line."""
        ...


class QuietView:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def update(self, progress: Progress) -> None:
        """Show nothing."""

    def say(self, line: str) -> None:
        """Show nothing."""


class PlainView(QuietView):
    """Prints a line when a stage starts and at each quarter of it: fit for log files.

    Args:
        stream: Where lines go.
        clock: Seconds, for rates.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._started: dict[Stage, tuple[float, int]] = {}
        self._shown: dict[Stage, int] = {}

    def update(self, progress: Progress) -> None:
        """Print a line if a quarter was completed."""
        stage = progress.stage
        quarter = PLAIN_LINES_PER_STAGE * progress.done // max(1, progress.total)
        if stage not in self._started:
            self._started[stage] = (self._clock(), progress.done)
        elif stage not in UNITS or quarter <= self._shown[stage]:
            return
        self._shown[stage] = quarter
        self.say(self._line(progress))

    def say(self, line: str) -> None:
        """Print a line at once; a reader that is gone costs the line, never the render."""
        with suppress(OSError, ValueError):
            self._stream.write(line + "\n")  # in one piece: answers to what is typed come from another thread
            self._stream.flush()

    def _line(self, progress: Progress) -> str:
        line, unit = STAGE_TITLES[progress.stage], UNITS.get(progress.stage)
        if unit is None:
            return line
        line += f" {progress.done}/{progress.total} {unit}"
        started_s, started_at = self._started[progress.stage]
        elapsed_s, made = self._clock() - started_s, progress.done - started_at
        if not made or elapsed_s <= 0:
            return line
        rate = made / elapsed_s
        return line + f", {rate:.1f} {unit}/s, {(progress.total - progress.done) / rate:.0f} s left"


class LiveView:
    """Draws one bar per stage.

    Args:
        console: A terminal.
    """

    def __init__(self, console: Console) -> None:
        self._bars = RichProgress(
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>14}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
            transient=True,
        )
        self._tasks: dict[Stage, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, progress: Progress) -> None:
        """Move the stage's bar."""
        stage = progress.stage
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(STAGE_TITLES[stage], total=None, rate="")
        task = self._tasks[stage]
        self._bars.update(task, completed=progress.done, total=progress.total, rate=self._rate(stage))

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _rate(self, stage: Stage) -> str:
        speed = next(task.speed for task in self._bars.tasks if task.id == self._tasks[stage])
        return f"{speed:.1f} {UNITS[stage]}/s" if speed and stage in UNITS else ""


def create_view(stream: TextIO | None, *, quiet: bool, shared: bool = False) -> ProgressView:
    """The view that fits a stream.

    Args:
        stream: Where it is drawn; None is a standard error that the caller closed.
        quiet: Show nothing.
        shared: Whether somebody types on the same terminal; bars would wipe out what he types.
    """
    if quiet or stream is None or stream.closed:
        return QuietView()
    if stream.isatty() and not shared:
        return LiveView(Console(file=stream))
    return PlainView(stream)
