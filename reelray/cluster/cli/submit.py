"""`reelray submit`: a video that a server makes and keeps, whether or not anybody waits."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reelray.cluster.cli import render_options as take
from reelray.cluster.cli import server_options as there
from reelray.cluster.cli.session import session_of

if TYPE_CHECKING:
    from reelray.cluster.client.connection import ServerAddress
    from reelray.cluster.client.kept_reading import Wanted

SUBMIT_EPILOG = """\b
Examples:
  reelray submit "a red circle moves left on a blue background"
  reelray submit "a green star grows" --seconds 60 --key star-1 --server gpu-7 --token "$TOKEN"
  reelray submit "a cat surfs" --wait && reelray jobs
  id=$(reelray submit "a cat surfs") && reelray fetch $id -o cat.mp4
  reelray submit "it wakes up" --image asset:$(reelray upload cat.png)
  reelray submit "a cat surfs" --webhook https://shop.example/hooks/cat
  reelray submit --batch prompts.jsonl --frames 81 --key monday > ids.jsonl
\b
A line of prompts.jsonl is "a prompt", or an object of options:
  {"prompt": "a cat surfs", "seed": 7, "seconds": 5, "size": "832x480", "priority": 10}
"""

BatchFile = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="A video for each line of JSON of this file (- for standard input)."),
]
Key = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="The same key and wish are the same render; line n of a batch has KEY/n."),
]
Priority = Annotated[int, typer.Option(metavar="N", help="-100 to 100; higher ones are made first.")]
Webhook = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The server tells this address of its end, where it was started to trust it."),
]
Deadline = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="Refuse it at once if it cannot be done by then, such as 18:30 or 2026-12-24T18:00."
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Show progress until it has ended.")]


def submit(
    context: typer.Context,
    prompt: take.FirstPrompt = None,
    *,
    batch: BatchFile = None,
    key: Key = None,
    priority: Priority = 0,
    webhook: Webhook = None,
    deadline: Deadline = None,
    wait: Wait = False,
    model: Annotated[str | None, typer.Option("--model", "-m", metavar="NAME", help="A model of the server.")] = None,
    at: take.Changes = None,
    seconds: take.Seconds = None,
    frames: take.FrameCount = None,
    size: take.Size = None,
    seed: take.Seed = None,
    steps: take.Steps = None,
    guidance: take.Guidance = None,
    negative: take.Negative = None,
    image: take.ImageThere = None,
    fps: take.Fps = None,
    decoder: take.DecoderChoice = None,
    sparsity: take.Sparsity = None,
    server: there.Server = there.HERE,
    token: take.Token = None,
    tls_ca: take.ServerCertificate = None,
    json: there.Json = False,
    debug: take.Debug = False,
) -> None:
    """Have a server make a video and keep it; prints its id.

    It goes on when this command, its connection or the server ends, from the last part that is durable. Without --seed
    the server draws one, the same one for the same --key. With --batch there is a line of JSON for each line, a wrong
    line stops none of the others, and the exit code is 2 if there was one.
    """
    session_of(context).set_debug(wanted=debug)
    address = there.address_of(server, token, tls_ca)
    from reelray.cluster.client.deadlines import read_deadline  # noqa: PLC0415  `--help` needs none of this
    from reelray.cluster.client.kept_reading import Wanted  # noqa: PLC0415

    changes = [(time, text) for time, _, text in (change.partition("\n") for change in at or ())]
    said: dict[str, Any] = {"at": changes or None, "seconds": seconds, "frames": frames, "size": size, "seed": seed}
    said |= {"steps": steps, "guidance": guidance, "negative": negative, "image": image, "fps": fps, "decoder": decoder}
    said |= {"sparsity": sparsity}
    options = {name: value for name, value in said.items() if value is not None}
    due = None if deadline is None else read_deadline(deadline)
    wanted = Wanted(model=model, key=key, priority=priority, webhook=webhook, deadline=due)
    if batch is None:
        _submit_one(prompt, options, wanted, address, wait=wait, as_json=json)
    elif prompt is None:
        _submit_many(batch, options, wanted, address, wait=wait)
    else:
        from reelray.proto.errors import InputError  # noqa: PLC0415

        raise InputError("a prompt and --batch were given; the prompts of a batch are in its file")


def _submit_one(
    prompt: str | None,
    options: Mapping[str, Any],
    wanted: "Wanted",
    address: "ServerAddress",
    *,
    wait: bool,
    as_json: bool,
) -> None:
    from reelray.cluster.client.kept_commands import submit as run  # noqa: PLC0415
    from reelray.cluster.render import RenderOptions  # noqa: PLC0415
    from reelray.proto.errors import PromptError  # noqa: PLC0415

    if prompt is None:
        raise PromptError('no prompt was given; say what the video shows, such as: reelray submit "a cat sleeps"')
    run(RenderOptions(prompt=prompt, **options), wanted, address, wait=wait, as_json=as_json)


def _submit_many(
    file: str, options: Mapping[str, Any], wanted: "Wanted", address: "ServerAddress", *, wait: bool
) -> None:
    from reelray.cluster.client.batch_file import Batch, submit_batch  # noqa: PLC0415

    submit_batch(Batch(file=file, options=options, wanted=wanted, wait=wait), address)
