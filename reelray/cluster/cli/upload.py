"""`reelray upload`: files that a server keeps, to be named in videos."""

from pathlib import Path
from typing import Annotated

import typer

from reelray.cluster.cli import render_options as take
from reelray.cluster.cli import server_options as there
from reelray.cluster.cli.session import session_of

UPLOAD_EPILOG = """\b
Examples:
  reelray upload cat.png --server gpu-7 --token "$TOKEN"
  reelray submit "it wakes up" --image asset:$(reelray upload cat.png)
  reelray upload *.png --keep-hours 2 --json
"""

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="What to upload.", show_default=False)]
KeepHours = Annotated[
    float | None,
    typer.Option(metavar="H", min=0.001, max=87_600, help="How long it is kept. Default: as long as the server does."),
]


def upload(
    context: typer.Context,
    files: Files,
    *,
    keep_hours: KeepHours = None,
    server: there.Server = there.HERE,
    token: take.Token = None,
    tls_ca: take.ServerCertificate = None,
    json: there.Json = False,
    debug: take.Debug = False,
) -> None:
    """Have a server keep files; prints the id of each, by which a video names it.

    An id stands for the bytes: the same file has the same id, and is sent and counted once. It takes PNG, JPEG, WebP,
    MP4, WebM, WAV, FLAC, Ogg, MP3 and safetensors; videos begin with pictures, and no model here takes the others yet.
    """
    session_of(context).set_debug(wanted=debug)
    address = there.address_of(server, token, tls_ca)
    from reelray.cluster.client.connection import open_channel  # noqa: PLC0415  `--help` needs none of this
    from reelray.cluster.client.kept_commands import print_fact  # noqa: PLC0415
    from reelray.cluster.client.uploads import upload as run  # noqa: PLC0415

    keep_s = 0 if keep_hours is None else max(1, round(keep_hours * 3600))
    with open_channel(address) as channel:
        for file in files:
            asset = run(channel, address, file, keep_s=keep_s)
            print_fact({"file": str(file), **asset.to_json()} if json else asset.id)
