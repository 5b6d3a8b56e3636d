"""`reelray stream --server`: a stream that a server makes, written here; the file is the one of a stream made here."""

import sys
import time
from dataclasses import replace

from reelray.cluster.client.connection import ServerAddress, open_channel
from reelray.cluster.client.dialogue import Dialogue
from reelray.cluster.client.notices import Notices
from reelray.cluster.client.remote_session import RemoteSession
from reelray.cluster.client.render_there import check_place
from reelray.cluster.client.requests import KEEP_S, SessionWish, write_start
from reelray.cluster.output_choice import choose_format, open_output
from reelray.cluster.progress import create_view
from reelray.cluster.render import RenderOptions
from reelray.cluster.render_file import FileOptions, print_summary
from reelray.cluster.render_report import describe_job, describe_result, summary_json
from reelray.cluster.stream_play import play
from reelray.cluster.video_format import name_for


def stream_there(options: RenderOptions, file_options: FileOptions, server: ServerAddress, *, listens: bool) -> None:
    """Run `reelray stream --server`.

    Args:
        options: What to make.
        file_options: Where it goes.
        server: Where it is made.
        listens: Whether lines of standard input are prompts and orders.

    Raises:
        ReelrayError: Anything failed; no file has appeared or changed.
    """
    started = time.monotonic()
    check_place(file_options.place)
    model = None if file_options.place.model is None else str(file_options.place.model)
    first = write_start(replace(options, stream=True), SessionWish(model=model, settled=not listens))
    video_format = choose_format(file_options.output, file_options.video_format)
    with (
        create_view(sys.stderr, quiet=file_options.quiet, shared=listens) as view,
        open_channel(server) as channel,
        RemoteSession(
            channel,
            server,
            Dialogue(first, grows=listens),
            on_progress=view.update,
            patience_s=float(KEEP_S),
            notices=Notices(view.say, "the stream"),
        ) as session,
    ):
        facts = session.facts
        output = file_options.output or name_for(facts.prompt, facts.seed, video_format)
        with open_output(output, video_format, replace=file_options.replace, tell=view.say) as video:
            view.say(describe_job(facts))
            facts, summary = play(session, video, view, session.digest, listens=listens)
    seconds = {**summary.stage_s, "total": time.monotonic() - started}
    view.say(describe_result(facts, summary, output, seconds=seconds, replaced=video.replaces))
    if file_options.json:
        print_summary(summary_json(facts, summary, output, video_format, seconds=seconds), output)
