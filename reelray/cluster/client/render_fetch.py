"""`reelray fetch`: the bytes of a render's file, into a file that goes on where an earlier fetch was cut off."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from reelray.cluster.client.connection import ServerAddress
from reelray.cluster.client.kept_commands import print_fact, say
from reelray.cluster.client.kept_render import KeptRender
from reelray.cluster.client.kept_renders import KeptRenders, connect_renders
from reelray.cluster.output_choice import STANDARD_OUTPUT_NAMES
from reelray.cluster.video_format import VideoFormat, name_for
from reelray.proto.errors import InputError, NeverError, OutputError

SHOWN_ID = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchOptions:
    """Where a render goes.

    Args:
        output: File, or ``-`` for standard output; None makes a name of prompt and seed.
        replace: An existing file may be replaced.
        json: Print what was fetched.
    """

    output: str | None = None
    replace: bool = True
    json: bool = False


def fetch(server: ServerAddress, render_id: str, options: FetchOptions) -> None:
    """Fetch a render; waits for what is not made yet.

    Raises:
        UnknownJobError: There is none of this id.
        EngineError: It failed, or the server was lost.
        CancelledError: It was cancelled.
        OutputError: The file cannot be written.
    """
    with connect_renders(server, say) as renders:
        render = renders.get(render_id)
        render.check_done()
        try:
            if options.output in STANDARD_OUTPUT_NAMES:
                _into_pipe(renders, render)
                return
            path = Path(options.output or _name(render)).expanduser()
            size = fetch_file(renders, render, path, replace=options.replace)
        except NeverError:
            renders.get(render_id).check_done()
            raise
    say(f"wrote {path}: {size} bytes")
    if options.json:
        print_fact({"id": render.id, "file": str(path), "bytes": size})


def fetch_file(renders: KeptRenders, render: KeptRender, path: Path, *, replace: bool) -> int:
    """Fetch a render into a file, which has its name when it is complete.

    Until then it is `.NAME.ID.part` beside it, which stays when the fetch is interrupted: the next one goes on from
    there. Bytes of a render never change.

    Returns:
        Bytes of the file.

    Raises:
        OutputError: It cannot be written, exists and may not be replaced, or is being fetched by another.
        ReelrayError: As for `KeptRenders.download`.
    """
    if path.is_dir() or (not replace and os.path.lexists(path)):
        told = "it is a folder" if path.is_dir() else "it exists, and --no-clobber was given"
        raise OutputError(f"cannot write '{path}': {told}; choose another name")
    partial = path.with_name(f".{path.name}.{render.id[:SHOWN_ID]}.part")
    try:
        with _claimed(partial) as file:
            for data in renders.download(render.id, offset=file.tell(), follow=True):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
            partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror}") from None
    return size


@contextmanager
def _claimed(partial: Path) -> Iterator[BinaryIO]:
    with partial.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"'{partial}' is written by another fetch; wait for it") from None
        file.seek(0, os.SEEK_END)
        try:
            yield file
        except BaseException:
            if not file.tell():  # nothing to go on from
                partial.unlink(missing_ok=True)
            raise


def _into_pipe(renders: KeptRenders, render: KeptRender) -> None:
    if sys.stdout.isatty():
        raise InputError("a video is not written to a terminal; name a file (-o clip.mp4) or pipe it into a player")
    for data in renders.download(render.id, follow=True):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _name(render: KeptRender) -> str:
    if render.facts is None:
        return f"{render.id[:SHOWN_ID]}.mp4"
    return name_for(render.facts.prompt, render.facts.seed, VideoFormat.MP4)
