"""Renders on a server into a file here; the file is the one that a render here would have written."""

import sys
import time
from contextlib import closing
from dataclasses import fields

from reelray.cluster.background_writer import BackgroundWriter
from reelray.cluster.client.connection import ServerAddress, open_channel
from reelray.cluster.client.notices import Notices
from reelray.cluster.client.remote_video import RemoteVideo
from reelray.cluster.client.requests import write_request
from reelray.cluster.output_choice import choose_format, open_output
from reelray.cluster.progress import create_view
from reelray.cluster.render import RenderOptions
from reelray.cluster.render_file import FileOptions, print_summary
from reelray.cluster.render_plan import Place
from reelray.cluster.render_report import describe_job, describe_result, file_metadata, summary_json
from reelray.cluster.video_facts import spec_of
from reelray.cluster.video_format import name_for
from reelray.proto.errors import InputError
from reelray.proto.v1 import video_spec_pb2 as wire


def render_there(options: RenderOptions, file_options: FileOptions, server: ServerAddress) -> None:
    """Run `reelray render --server`.

    Raises:
        ReelrayError: Anything failed; no file has appeared or changed.
    """
    started = time.monotonic()
    check_place(file_options.place)
    model = None if file_options.place.model is None else str(file_options.place.model)
    request = write_request(options, model, wire.MEDIA_RGB24)
    video_format = choose_format(file_options.output, file_options.video_format)
    with (
        create_view(sys.stderr, quiet=file_options.quiet) as view,
        open_channel(server) as channel,
        closing(RemoteVideo(channel, server, request, view.update, Notices(view.say))) as remote,
    ):
        facts = remote.facts
        output = file_options.output or name_for(facts.prompt, facts.seed, video_format)
        with open_output(output, video_format, replace=file_options.replace, tell=view.say) as video:
            view.say(describe_job(facts))
            video.start(spec_of(facts, file_metadata(facts, remote.digest)))
            with closing(BackgroundWriter(video)) as writer:
                for frames_FHWC in remote:
                    writer.write(frames_FHWC)
                writer.finish()
    assert remote.summary is not None, "it ends with a summary or an error"
    seconds = {**remote.summary.stage_s, "total": time.monotonic() - started}
    view.say(describe_result(facts, remote.summary, output, seconds=seconds, replaced=video.replaces))
    if file_options.json:
        print_summary(summary_json(facts, remote.summary, output, video_format, seconds=seconds), output)


def check_place(place: Place) -> None:
    """Refuse what is the server's to decide.

    Raises:
        InputError: It was said beside the server.
    """
    said = [field.name for field in fields(place) if field.name != "model" and getattr(place, field.name) is not None]
    if said:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in said)
        raise InputError(f"{options} cannot be given with --server; the server decides where its models run")
