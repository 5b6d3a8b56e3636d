"""Splits the process in two: one that serves, and one that starts it again when it is lost."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from reelray.cluster.supervisor.kinship import adopt_orphans, end_orphans, end_with
from reelray.cluster.supervisor.restarts import RestartRule, Restarts
from reelray.cluster.supervisor.seat import News, Seat, read_news
from reelray.proto.errors import EngineError

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def supervise(tell: Callable[[str], None], rule: RestartRule | None = None) -> Seat:
    """Fork; returns in the child, once for each start, and goes on as the server there.

    Call it while this process has one thread and has loaded nothing heavy. The other process, the parent, stays in
    here: it hands signals on, starts the server again when it was lost after it had been ready, and leaves with the
    server's exit code when that ended by itself, was asked to, or was never ready. A server that is killed takes its
    processes along, and so does a parent.

    Args:
        tell: Takes lines for whoever started it.
        rule: How patient to be.

    Raises:
        SystemExit: In the parent, with the server's exit code.
        EngineError: In the parent: it was lost too often in a row.
    """
    return _Supervisor(tell, rule or RestartRule()).run()


class _Supervisor:
    def __init__(self, tell: Callable[[str], None], rule: RestartRule) -> None:
        self._heard_by, self._rule, self._restarts = tell, rule, Restarts(rule)
        self._child: int | None = None
        self._asked: int | None = None
        self._handlers = {number: signal.getsignal(number) for number in PASSED_ON}

    def run(self) -> Seat:
        adopt_orphans()
        before: News | None = None
        while True:
            seat = self._start(before)
            if seat is not None:
                return seat
            code, news = self._wait()
            end_orphans()
            if news is None and before is None:
                self._leave(code, "while it started")
            if code == 0 or self._asked is not None:
                self._leave(code, "while it ended")
            before = news or before
            self._rest(code, news)

    def _tell(self, line: str) -> None:
        """Say it; that nobody listens any more is no reason to let the server go."""
        with contextlib.suppress(OSError):
            self._heard_by(line)

    def _start(self, before: News | None) -> Seat | None:
        """The seat in the server; None in the parent."""
        parent = os.getpid()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # nobody reads it any more
                stream.flush()
        with _signals_held():  # none may come while nobody knows whom to hand it to
            reading, writing = os.pipe()
            self._child = os.fork()
            if self._child == 0:
                os.close(reading)
                self._become_server(parent)
                return Seat(before, writing)
            os.close(writing)
            self._pipe = reading
            for number in self._heard():
                signal.signal(number, self._pass_on)
        return None

    def _become_server(self, parent: int) -> None:
        end_with(parent)
        os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, which hands it on: twice would mean at once
        for number in self._heard():
            signal.signal(number, self._handlers[number])

    def _heard(self) -> list[signal.Signals]:
        return [number for number in PASSED_ON if self._handlers[number] is not signal.SIG_IGN]

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._asked = number
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, number)

    def _wait(self) -> tuple[int, News | None]:
        assert self._child is not None, "it was started"
        while True:
            pid, status = os.wait()  # also of processes that had lost their parent
            if pid == self._child:
                break
        self._child = None
        with os.fdopen(self._pipe, "rb") as pipe:
            return os.waitstatus_to_exitcode(status), read_news(pipe.fileno())

    def _rest(self, code: int, news: News | None) -> None:
        ready_for_s = 0.0 if news is None else time.monotonic() - news.at_s
        wait_s = self._restarts.lost(ready_for_s)
        if wait_s is None:
            raise EngineError(
                f"the server was lost {self._restarts.in_a_row} times in a row, at last {_how(code)}; giving up"
            )
        self._tell(f"the server was lost ({_how(code)}); starting it again")
        until_s = time.monotonic() + wait_s
        while self._asked is None and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.1))
        if self._asked is not None:
            raise SystemExit(0)

    def _leave(self, code: int, when: str) -> NoReturn:
        if code < 0 and -code != self._asked:
            self._tell(f"the server was lost {when} ({_how(code)})")
        raise SystemExit(code if code >= 0 else 128 - code)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
