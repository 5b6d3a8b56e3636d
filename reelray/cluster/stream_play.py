"""Writes a stream while lines of standard input are heard, wherever it is made."""

import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from typing import Protocol

from reelray.cluster.background_writer import BackgroundWriter
from reelray.cluster.output_choice import Output
from reelray.cluster.progress import ProgressView, create_view
from reelray.cluster.render_report import file_metadata
from reelray.cluster.spoken_lines import SpokenLines
from reelray.cluster.stream_commands import HELP, Spoken, StreamCommands
from reelray.cluster.video_facts import VideoFacts, spec_of
from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import ReelrayError
from reelray.proto.request import RenderSummary


class Played(Spoken, Protocol):
    """A stream that is written."""

    @property
    def facts(self) -> VideoFacts:
        """What is made, by what was said until now."""
        ...

    @property
    def summary(self) -> RenderSummary | None:
        """What it took; None before the end."""
        ...

    def __iter__(self) -> Iterator[FramesArray]:
        """Frames, F, H, W, 3, as they are made."""
        ...

    def close(self) -> None:
        """End it where it is."""
        ...


def play(
    session: Played, video: Output, view: ProgressView, digest: str, *, listens: bool, first_frame: int = 0
) -> tuple[VideoFacts, RenderSummary]:
    """Write a stream up to its end.

    Args:
        session: The stream.
        video: Where it goes.
        view: Shows progress.
        digest: Of the model.
        listens: Whether lines of standard input are prompts and orders.
        first_frame: Where it begins that goes on from a snapshot.

    Returns:
        What was made in the end, and what it took.

    Raises:
        ReelrayError: The stream failed, or cannot be written.
    """

    def ended() -> None:
        with suppress(ReelrayError):  # it may be over by now
            session.resume()  # else nobody could

    facts = session.facts
    video.start(spec_of(facts, file_metadata(facts, digest, first_frame=first_frame), first_frame=first_frame))
    commands = StreamCommands(session, create_view(sys.stderr, quiet=False, shared=True).say)  # answers are no progress
    if listens:
        view.say(HELP)
    with (
        closing(BackgroundWriter(video, failed=session.close)) as writer,
        closing(SpokenLines(_standard_input(), commands.hear, ended)) if listens else nullcontext(),
    ):
        for frames_FHWC in session:
            writer.write(frames_FHWC)
        writer.check()
        summary = session.summary
        assert summary is not None, "a session ends with a summary or an error"
        facts = replace(session.facts, frames=summary.frames)
        writer.finish(file_metadata(facts, summary.model_digest, first_frame=first_frame))
    return facts, summary


def _standard_input() -> int | None:
    with suppress(AttributeError, OSError, ValueError):  # closed, or none
        return sys.stdin.fileno()
    return None
