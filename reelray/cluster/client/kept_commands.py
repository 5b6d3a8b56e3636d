"""`reelray submit`, `jobs`, `watch` and `cancel`, without the words of the command line."""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice

from reelray.cluster.client.connection import ServerAddress
from reelray.cluster.client.kept_reading import Wanted
from reelray.cluster.client.kept_render import KeptEvent, KeptRender, read_state
from reelray.cluster.client.kept_renders import KeptRenders, connect_renders
from reelray.cluster.client.notices import describe_standing
from reelray.cluster.progress import STAGE_TITLES, ProgressView, create_view
from reelray.cluster.render import RenderOptions
from reelray.cluster.render_report import describe_job

COLUMNS = ("ID", "STATE", "SUBMITTED", "FRAMES", "MODEL", "PROMPT")
SHOWN_PROMPT = 48


def submit(options: RenderOptions, wanted: Wanted, server: ServerAddress, *, wait: bool, as_json: bool) -> None:
    """Run `reelray submit` for one video: its id on standard output, or its facts as JSON.

    Raises:
        ReelrayError: An option is wrong, a quota is reached, the server was lost, or it was waited for and failed.
    """
    with connect_renders(server, say) as renders:
        render, fresh = renders.submit(options, wanted)
        say(describe_submitted(render, fresh=fresh, server=server))
        if not (wait and as_json):
            print_fact(render.to_json() | {"fresh": fresh} if as_json else render.id)
        if wait:
            with create_view(sys.stderr, quiet=False) as view:
                render = follow(renders, render.id, view)
            if as_json:
                print_fact(render.to_json() | {"fresh": fresh})
            render.check_done()


def list_jobs(server: ServerAddress, *, state: str | None, most: int, as_json: bool) -> None:
    """Run `reelray jobs`.

    Raises:
        ReelrayError: There is no such state, or the server was lost.
    """
    with connect_renders(server, say) as renders:
        found = list(islice(renders.list(read_state(state)), most))
    if as_json:
        print_fact([render.to_json() for render in found])
        return
    rows = [COLUMNS, *(_row(render) for render in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS) - 1)]
    for row in rows:
        print_fact("  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)))


def watch(server: ServerAddress, render_id: str, *, after: int, as_json: bool) -> None:
    """Run `reelray watch`: progress on standard error, or each event as a line of JSON on standard output.

    Raises:
        EngineError: The render failed, or the server was lost.
        CancelledError: It was cancelled.
        UnknownJobError: There is none.
    """
    with connect_renders(server, say) as renders, create_view(sys.stderr, quiet=as_json) as view:
        render = follow(renders, render_id, view, after=after, as_json=as_json)
    if not as_json:
        say(f"{render.id} is {render.state.value}" + (f": {render.error}" if render.error else ""))
    render.check_done()


def cancel(server: ServerAddress, ids: Sequence[str], *, as_json: bool) -> None:
    """Run `reelray cancel`: one line for each.

    Raises:
        UnknownJobError: There is none of that id; those before it are cancelled.
        ReelrayError: The server was lost.
    """
    with connect_renders(server, say) as renders:
        for render_id in ids:
            render = renders.cancel(render_id)
            print_fact(render.to_json() if as_json else f"{render.id} is {render.state.value}")


def follow(
    renders: KeptRenders, render_id: str, view: ProgressView, *, after: int = 0, as_json: bool = False
) -> KeptRender:
    """Show what happens to a render, up to its end.

    Returns:
        How it ended.
    """
    shown = renders.get(render_id)
    if shown.facts is not None:
        view.say(describe_job(shown.facts))
    if shown.error and not shown.state.ended:
        view.say(shown.error)
    position = 0
    for event in renders.watch(render_id, after=after):
        if as_json:
            print_fact(_event_json(event))
        elif event.progress is not None and event.progress.stage in STAGE_TITLES:
            view.update(event.progress)
        elif event.waits is not None:
            if event.waits.position != position:
                view.say(describe_standing(event.waits))
            position = event.waits.position
        elif event.state is not None and not event.ends:
            view.say(f"{event.state.value} since {event.at.astimezone():%H:%M:%S}")
    return renders.get(render_id)


def describe_submitted(render: KeptRender, *, fresh: bool, server: ServerAddress) -> str:
    """What was submitted, and what to do next."""
    what = "" if render.facts is None else f": {describe_job(render.facts)}"
    known = "submitted" if fresh else f"the key is known; it is {render.state.value}"
    there = f"--server {server.address}"
    return f"{known}{what}\nreelray watch {render.id} {there}\nreelray fetch {render.id} {there} -o clip.mp4"


def print_fact(fact: str | Mapping[str, object] | Sequence[object]) -> None:
    """Print a line that a program may read."""
    sys.stdout.write((fact if isinstance(fact, str) else json.dumps(fact)) + "\n")
    sys.stdout.flush()


def say(line: str) -> None:
    """Print for people, where no program reads."""
    with suppress(OSError, ValueError):  # nobody reads
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _row(render: KeptRender) -> tuple[str, ...]:
    video = render.facts
    prompt = "" if video is None else " ".join(video.prompt.split())
    return (
        render.id,
        render.state.value,
        f"{render.created.astimezone():%Y-%m-%d %H:%M}",
        "" if video is None else str(video.frames),
        "" if video is None else video.model,
        prompt if len(prompt) <= SHOWN_PROMPT else prompt[: SHOWN_PROMPT - 1] + "…",
    )


def _event_json(event: KeptEvent) -> dict[str, object]:
    told: dict[str, object] = {"number": event.number, "at": event.at.isoformat()}
    if event.state is not None:
        told["state"] = event.state.value
    if event.committed is not None:
        told["committed"] = event.committed
    if event.progress is not None:
        told |= {"stage": event.progress.stage.value, "done": event.progress.done, "total": event.progress.total}
    if event.waits is not None:
        told["position"] = event.waits.position
        told["predicted_start"] = None if event.waits.start is None else event.waits.start.isoformat()
    if event.skipped_to is not None:
        told["skipped_to"] = event.skipped_to.to_json()
    return told
