"""Many videos from a file: a line of JSON for each, and a line of JSON about each."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from reelray.cluster.client.connection import ServerAddress
from reelray.cluster.client.kept_commands import follow, print_fact, say
from reelray.cluster.client.kept_reading import Wanted
from reelray.cluster.client.kept_render import KeptRender
from reelray.cluster.client.kept_renders import KeptRenders, connect_renders
from reelray.cluster.client.patience import AWAY
from reelray.cluster.progress import QuietView
from reelray.cluster.render import RenderOptions
from reelray.cluster.store.job import JobState
from reelray.proto.errors import EngineError, InputError, ReelrayError

OF_VIDEOS = {field.name for field in fields(RenderOptions)} - {"stream", "pace"}
LENGTHS = {"frames", "seconds"}
OF_RENDERS = {"model", "key", "priority", "webhook"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What all lines share.

    Args:
        file: Lines of JSON; ``-`` for standard input.
        options: Of videos, by name, where a line says nothing else.
        wanted: The same for what is not of the video; line n has the key ``KEY/n``.
        wait: Wait for all of them.
    """

    file: str
    options: Mapping[str, Any]
    wanted: Wanted
    wait: bool = False


def submit_batch(batch: Batch, server: ServerAddress) -> None:
    """Run `reelray submit --batch`: one line of JSON for each line, and once more for its end where it is waited for.

    A wrong line stops none of the others.

    Raises:
        InputError: The file cannot be read, or lines of it were refused.
        EngineError: The server was lost, or a render failed that was waited for.
    """
    with connect_renders(server, say) as renders:
        submitted: list[tuple[int, KeptRender]] = []
        count = 0
        for number, text in _lines(batch.file):
            count += 1
            render = _submit_line(renders, batch, number, text)
            if render is not None:
                submitted.append((number, render))
        failed = _wait(renders, submitted) if batch.wait else 0
    say(f"{len(submitted)} of {count} lines submitted")
    if len(submitted) < count:
        raise InputError(f"{count - len(submitted)} of {count} lines of '{batch.file}' were refused; see their errors")
    if failed:
        raise EngineError(f"{failed} of {count} renders failed or were cancelled; see their errors")


def _submit_line(renders: KeptRenders, batch: Batch, number: int, text: str) -> KeptRender | None:
    try:
        options, wanted = read_line(text, number, batch)
        render, fresh = renders.submit(options, wanted)
    except AWAY:
        raise
    except ReelrayError as error:
        print_fact({"line": number, "error": error.message, "code": error.code})
        return None
    print_fact({"line": number, "fresh": fresh, **render.to_json()})
    return render


def read_line(text: str, number: int, batch: Batch) -> tuple[RenderOptions, Wanted]:
    """Read a line: a prompt as a JSON string, or an object of options by name.

    Raises:
        InputError: It is something else, or names an option that there is none of.
    """
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"line {number} is not JSON: {error}") from None
    if isinstance(said, str):
        said = {"prompt": said}
    if not isinstance(said, dict):
        raise InputError(f"line {number} is neither a prompt nor an object of options")
    if unknown := sorted(set(said) - OF_VIDEOS - OF_RENDERS):
        raise InputError(
            f"line {number} names {', '.join(unknown)}; known are {', '.join(sorted(OF_VIDEOS | OF_RENDERS))}"
        )
    video = {**_defaults(batch, said), **{name: value for name, value in said.items() if name in OF_VIDEOS}}
    if "prompt" not in video:
        raise InputError(f"line {number} has no prompt")
    shared = batch.wanted
    key = said.get("key", None if shared.key is None else f"{shared.key}/{number}")
    model, priority = said.get("model", shared.model), said.get("priority", shared.priority)
    webhook = said.get("webhook", shared.webhook)
    _check_kinds(number, priority=priority, texts={"key": key, "model": model, "webhook": webhook})
    wanted = Wanted(model=model, key=key, priority=priority, webhook=webhook, deadline=shared.deadline)
    return RenderOptions(**video), wanted


def _defaults(batch: Batch, said: Mapping[str, Any]) -> dict[str, Any]:
    """What the command says of a video; a length that the line says, in whatever unit, is instead of the command's."""
    unwanted = LENGTHS if LENGTHS & set(said) else set()
    return {name: value for name, value in batch.options.items() if name not in unwanted}


def _check_kinds(number: int, *, priority: object, texts: Mapping[str, object]) -> None:
    for name, value in texts.items():
        if not isinstance(value, str | None):
            raise InputError(f"line {number}: {name} is {value!r}; it must be text")
    if not isinstance(priority, int) or isinstance(priority, bool):
        raise InputError(f"line {number}: priority is {priority!r}; it must be a whole number")


def _wait(renders: KeptRenders, submitted: list[tuple[int, KeptRender]]) -> int:
    """Wait for all; returns how many did not come out."""
    failed = 0
    for number, render in submitted:
        ended = follow(renders, render.id, QuietView())
        failed += ended.state is not JobState.DONE
        print_fact({"line": number, **ended.to_json()})
    return failed


def _lines(file: str) -> Iterator[tuple[int, str]]:
    """Lines that say something, with their numbers."""
    try:
        with ExitStack() as stack:
            source = sys.stdin if file == "-" else stack.enter_context(Path(file).expanduser().open(encoding="utf-8"))
            for number, line in enumerate(source, 1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise InputError(f"batch '{file}' cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"batch '{file}' is no UTF-8 text") from None
