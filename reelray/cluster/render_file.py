"""Renders a job into a file: plan, check, start the engine, and encode while it works."""

import json
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field

from reelray.cluster.background_writer import BackgroundWriter
from reelray.cluster.output_choice import STANDARD_OUTPUT_NAMES, Output, choose_format, open_output
from reelray.cluster.progress import ProgressView, create_view
from reelray.cluster.render import RenderJob, RenderOptions
from reelray.cluster.render_plan import Place, Target, open_engine, plan_on
from reelray.cluster.render_report import describe_job, describe_result, file_metadata, summary_json
from reelray.cluster.render_session import RenderSession
from reelray.cluster.services import Services
from reelray.cluster.video_facts import facts_of, spec_of
from reelray.cluster.video_format import VideoFormat, name_for
from reelray.cluster.video_writer import load_writer
from reelray.proto.request import RenderSummary


@dataclass(frozen=True, kw_only=True, slots=True)
class FileOptions:
    """How a render is run and where it goes; None means the setting's or the model's choice.

    Args:
        output: File, folder, pipe, or ``-`` for standard output; None makes a name of prompt and seed.
        video_format: None goes by the output's ending.
        replace: An existing file may be replaced.
        place: Where it runs.
        json: Print a summary on standard output; on standard error where the video has that.
        quiet: Show no progress.
    """

    output: str | None = None
    video_format: VideoFormat | None = None
    replace: bool = True
    place: Place = field(default_factory=Place)
    json: bool = False
    quiet: bool = False


def render_file(options: RenderOptions, file_options: FileOptions, services: Services) -> None:
    """Run `reelray render` or `reelray stream`.

    Raises:
        ReelrayError: Anything failed; no file has appeared or changed.
    """
    started = time.monotonic()
    video_format = choose_format(file_options.output, file_options.video_format)
    job, target = plan_on(options, services, file_options.place)
    facts = facts_of(job)
    output = file_options.output or name_for(facts.prompt, facts.seed, video_format)
    with (
        create_view(sys.stderr, quiet=file_options.quiet) as view,
        open_output(output, video_format, replace=file_options.replace, tell=view.say) as video,
    ):
        view.say(describe_job(facts))
        if target.reason is not None:
            view.say(target.reason)
        summary, start_s = _render(job, target, services, video, view)
    seconds = {"start": start_s, **summary.stage_s, "total": time.monotonic() - started}
    view.say(describe_result(facts, summary, output, seconds=seconds, replaced=video.replaces))
    if file_options.json:
        print_summary(summary_json(facts, summary, output, video_format, seconds=seconds), output)


def print_summary(report: Mapping[str, object], output: str) -> None:
    """Print what `--json` asks for: one line, where the video is not."""
    stream = sys.stderr if output in STANDARD_OUTPUT_NAMES else sys.stdout
    print(json.dumps(report), file=stream, flush=True)


def _render(
    job: RenderJob, target: Target, services: Services, video: Output, view: ProgressView
) -> tuple[RenderSummary, float]:
    """Returns the summary and the seconds until the engine was ready, loading included."""
    started = time.monotonic()
    # The encoder's library loads while the engine starts.
    threading.Thread(target=load_writer, args=(video.format,), name="load-encoder", daemon=True).start()
    with closing(open_engine(job, target, services, view.update)) as engine:
        start_s = time.monotonic() - started
        facts = facts_of(job)
        video.start(spec_of(facts, file_metadata(facts, engine.description.digest)))
        session = RenderSession(engine, job, view.update)
        with closing(BackgroundWriter(video)) as writer:
            for frames_FHWC in session:
                writer.write(frames_FHWC)
            writer.finish()
    assert session.summary is not None, "a session ends with Done or an error"
    return session.summary, start_s
