"""`reelray stream` while it runs: by the prompts that come meanwhile, or on from a snapshot."""

import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from reelray.cluster.output_choice import choose_format, open_output
from reelray.cluster.progress import create_view
from reelray.cluster.render import RenderJob, RenderOptions
from reelray.cluster.render_file import FileOptions, print_summary
from reelray.cluster.render_plan import Target, open_engine, plan_on, plan_resumed
from reelray.cluster.render_report import describe_job, describe_result, summary_json
from reelray.cluster.services import Services
from reelray.cluster.snapshot_file import read_snapshot
from reelray.cluster.stream_job import as_live, read_saying
from reelray.cluster.stream_play import play
from reelray.cluster.stream_session import StreamSession
from reelray.cluster.video_facts import facts_of
from reelray.cluster.video_format import VideoFormat, name_for
from reelray.proto.snapshot import Snapshot


def stream_interactively(options: RenderOptions, file_options: FileOptions, services: Services) -> None:
    """Run `reelray stream --interactive`: lines of standard input are prompts and orders.

    Raises:
        ReelrayError: Anything failed; no file has appeared or changed.
    """
    job, target = plan_on(options, services, file_options.place)
    job = as_live(job, rounds=options.frames is None)
    _stream(job, target, file_options, services, listens=True)


def stream_from(path: str, prompt: str | None, file_options: FileOptions, services: Services, *, listens: bool) -> None:
    """Run `reelray stream --from`: the rest of a stream, from a snapshot on.

    Args:
        path: The snapshot.
        prompt: What it shows from its next chunk on; None means what it showed.
        file_options: Where the video goes.
        services: Settings, checkpoints and engines.
        listens: Whether lines of standard input are prompts and orders.

    Raises:
        SnapshotError: The file is damaged, or of another model or version.
        ReelrayError: Anything else failed; no file has appeared or changed.
    """
    file = read_snapshot(Path(path))
    job, target = plan_resumed(file, services, file_options.place)
    if prompt is not None:
        read_saying(job, prompt, None, cut=False)  # what is wrong with it is wrong before a model is loaded
    _stream(job, target, file_options, services, listens=listens, snapshot=file.snapshot, prompt=prompt)


def _stream(
    job: RenderJob,
    target: Target,
    file_options: FileOptions,
    services: Services,
    *,
    listens: bool,
    snapshot: Snapshot | None = None,
    prompt: str | None = None,
) -> None:
    started = time.monotonic()
    video_format = choose_format(file_options.output, file_options.video_format)
    first = 0 if snapshot is None else snapshot.frame
    output = file_options.output or _name(job, prompt, video_format, snapshot)
    with (
        create_view(sys.stderr, quiet=file_options.quiet, shared=listens) as view,
        open_output(output, video_format, replace=file_options.replace, tell=view.say) as video,
    ):
        view.say(describe_job(facts_of(job)) + (f", from {float(first / job.fps):.2f} s on" if snapshot else ""))
        with closing(open_engine(job, target, services, view.update)) as engine:
            start_s = time.monotonic() - started
            with StreamSession(engine, job, on_progress=view.update, snapshot=snapshot) as session:
                if prompt is not None:
                    session.say(prompt)
                facts, summary = play(
                    session, video, view, engine.description.digest, listens=listens, first_frame=first
                )
    summary = replace(summary, frames=summary.frames - first)
    seconds = {"start": start_s, **summary.stage_s, "total": time.monotonic() - started}
    view.say(describe_result(facts, summary, output, seconds=seconds, replaced=video.replaces))
    if file_options.json:
        print_summary(
            summary_json(facts, summary, output, video_format, seconds=seconds) | {"first_frame": first}, output
        )


def _name(job: RenderJob, prompt: str | None, video_format: VideoFormat, snapshot: Snapshot | None) -> str:
    """A name of its own for what goes on from a snapshot: the video that it was taken of has the other one."""
    name = name_for(prompt or job.request.prompt, job.request.seed, video_format)
    if snapshot is None:
        return name
    stem, dot, ending = name.partition(".")
    return f"{stem}-from-{snapshot.frame}{dot}{ending}"
