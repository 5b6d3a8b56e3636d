"""What is typed while a stream runs: a line is the next prompt, and a few words after a slash are orders."""

import shlex
from collections.abc import Callable
from typing import Protocol

from reelray.proto.errors import InputError, ReelrayError
from reelray.proto.snapshot import SnapshotKind

HELP = (
    "a line is the next prompt; /at TIME PROMPT, /cut PROMPT, /pause, /resume, /extend TIME, "
    "/snapshot FILE [exact|replay|quick], /stop and /help are orders; times are such as 10, 10s or 1:30"
)


class Spoken(Protocol):
    """A stream that is talked to, here or on a server; see `StreamSession`."""

    def say(self, prompt: str, at: str | float | None = None, *, cut: bool = False) -> float:
        """Go by another prompt; returns seconds of video after which it holds."""
        ...

    def extend(self, seconds: float | str) -> float:
        """Make it longer; returns seconds of the whole."""
        ...

    def pause(self) -> None:
        """Begin nothing until `resume`."""
        ...

    def resume(self) -> None:
        """Go on."""
        ...

    def snapshot(self, path: str, kind: str = "exact") -> float:
        """Put it down into a file; returns seconds of video after which that goes on."""
        ...

    def stop(self) -> float:
        """End with what has begun; returns seconds of the whole."""
        ...


class StreamCommands:
    """Carries out lines on a session; whatever is wrong with one is said in a line, and the stream goes on.

    Args:
        session: The stream.
        say: Shows a line.
    """

    def __init__(self, session: Spoken, say: Callable[[str], None]) -> None:
        self._session, self._say = session, say
        self._orders: dict[str, Callable[[str], str]] = {
            "/at": self._at,
            "/cut": self._cut,
            "/pause": self._pause,
            "/resume": self._resume,
            "/extend": self._extend,
            "/snapshot": self._snapshot,
            "/stop": self._stop,
            "/help": self._help,
        }

    def hear(self, line: str) -> None:
        """Carry out a line."""
        word, _, rest = line.partition(" ")
        try:
            if not line.startswith("/"):
                answer = self._prompt(line)
            elif word in self._orders:
                answer = self._orders[word](rest.strip())
            else:
                raise InputError(f"there is no order {word}; {HELP}")
        except ReelrayError as error:
            answer = f"error: {' '.join(error.message.split())}"
        self._say(answer)

    def _prompt(self, prompt: str, at: str | None = None, *, cut: bool = False) -> str:
        return f"{prompt!r} holds from {self._session.say(prompt, at, cut=cut):.2f} s on"

    def _at(self, rest: str) -> str:
        time, _, prompt = rest.partition(" ")
        if not prompt.strip():
            raise InputError("/at takes a time and a prompt, such as: /at 10s the cat wakes up")
        return self._prompt(prompt.strip(), time)

    def _cut(self, prompt: str) -> str:
        if not prompt:
            raise InputError("/cut takes a prompt, such as: /cut an empty beach at dawn; /at 10s,cut PROMPT cuts later")
        return self._prompt(prompt, cut=True)

    def _pause(self, rest: str) -> str:
        _check_alone("/pause", rest)
        self._session.pause()
        return "paused; /resume goes on"

    def _resume(self, rest: str) -> str:
        _check_alone("/resume", rest)
        self._session.resume()
        return "it goes on"

    def _extend(self, rest: str) -> str:
        if not rest:
            raise InputError("/extend takes a time, such as: /extend 10s")
        return f"the video now has {self._session.extend(rest):.2f} s"

    def _snapshot(self, rest: str) -> str:
        words = _split(rest)
        if not 1 <= len(words) <= 2 or not words[0]:
            raise InputError(
                "/snapshot takes a file and perhaps a kind, such as: /snapshot cat.snap replay; the kinds are "
                f"{', '.join(SnapshotKind)}; a name with blanks goes in quotes"
            )
        if words[1:] and words[1] not in [*SnapshotKind]:
            raise InputError(
                f"{words[1]!r} is no kind of snapshot; the kinds are {', '.join(SnapshotKind)}, and a file's name with "
                "blanks goes in quotes"
            )
        return f"--from {shlex.quote(words[0])} goes on at {self._session.snapshot(*words):.2f} s"

    def _stop(self, rest: str) -> str:
        _check_alone("/stop", rest)
        return f"the video ends at {self._session.stop():.2f} s"

    def _help(self, rest: str) -> str:
        _check_alone("/help", rest)
        return HELP


def _split(words: str) -> list[str]:
    """Words as a shell has them: quotes hold blanks together."""
    try:
        return shlex.split(words)
    except ValueError:
        raise InputError(f"a quote in {words!r} does not end; close it, or put the name in the other quotes") from None


def _check_alone(word: str, rest: str) -> None:
    if rest:
        raise InputError(f"{word} takes nothing behind it, and {rest!r} is there; a prompt is a line of its own")
