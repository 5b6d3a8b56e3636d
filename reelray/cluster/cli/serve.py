"""`reelray serve`: models for others, over gRPC and HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from reelray.cluster.cli import render_options as take
from reelray.cluster.cli.session import session_of

SERVE_EPILOG = """\b
Examples:
  reelray serve
  reelray serve --model ./Wan2.1-T2V-1.3B-Diffusers --gpus 2
  reelray serve --model sprites --model sprites-causal --engine local
  reelray serve --address 0.0.0.0:50051 --tls-cert cert.pem --tls-key key.pem --token "$TOKEN"
  reelray serve --data /srv/reelray --tokens tokens.txt --keep-days 30 --keep-gb 50
  reelray serve --http-port off
  reelray serve --allow-url https://cdn.example/in/ --allow-webhook https://shop.example/hooks/
  reelray serve --config serve.yaml
  reelray serve --config serve.yaml --check --json
  grpcurl -plaintext -d '{"video":{"prompt":"a star"}}' localhost:50051 reelray.v1.Videos/Generate
"""

Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", metavar="NAME|DIR", help="A model to serve; may be given again. Default: sprites."),
]
Address = Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")]
Certificate = Annotated[
    Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate chain (PEM); callers then speak TLS.")
]
Key = Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key (PEM).")]
Grace = Annotated[
    float, typer.Option(metavar="S", min=0, help="How long running videos may take to end once it is asked to stop.")
]
Data = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where renders and their store are kept. Default: serve in REELRAY_DATA_DIR."),
]
Tokens = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Lines of TENANT TOKEN: who may call; a tenant sees its own renders only."),
]
KeepDays = Annotated[
    float, typer.Option(metavar="DAYS", min=0.001, max=3650, help="How long an ended render and its file are kept.")
]
KeepGb = Annotated[
    float | None,
    typer.Option(
        metavar="GB",
        min=0,
        max=1_000_000,
        help="Most GB (10^9 bytes) for files of each tenant's ended renders; the oldest go first. Default: any.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="YAML that says what is served, and how; what is said here beside it counts more."
    ),
]
Check = Annotated[bool, typer.Option("--check", help="Print what would be started, and start nothing.")]
Supervised = Annotated[
    bool,
    typer.Option(
        "--supervise/--no-supervise",
        help="Start the server again whenever its process is lost; not needed where something else does that.",
    ),
]
HttpPort = Annotated[
    str,
    typer.Option(
        metavar="PORT",
        help="Port of HTTP for OpenAI's clients, on the same host: a number, free for any, 0 or off for none.",
    ),
]
AllowUrl = Annotated[
    list[str] | None,
    typer.Option(metavar="URL", help="Conditions may name addresses that begin so; may be given again. Default: none."),
]
AllowWebhook = Annotated[
    list[str] | None,
    typer.Option(metavar="URL", help="Ends of renders may be told to addresses that begin so; may be given again."),
]
AssetDays = Annotated[
    float, typer.Option(metavar="DAYS", min=0.001, max=3650, help="Longest time that an upload is kept.")
]
AssetGb = Annotated[
    float, typer.Option(metavar="GB", min=0.001, max=1_000_000, help="Most GB (10^9 bytes) of each tenant's uploads.")
]
AssetMb = Annotated[
    float, typer.Option(metavar="MB", min=0.001, max=1_000_000, help="Most MB (10^6 bytes) of one upload.")
]
AssetCount = Annotated[
    int, typer.Option(metavar="N", min=1, max=100_000, help="How many uploads of each tenant are kept.")
]
AssetUploads = Annotated[int, typer.Option(metavar="N", min=1, max=16, help="How many a tenant may send at a time.")]


def serve(
    context: typer.Context,
    *,
    model: Models = None,
    address: Address = "127.0.0.1:50051",
    http_port: HttpPort = "8000",
    token: take.Token = None,
    tokens: Tokens = None,
    tls_cert: Certificate = None,
    tls_key: Key = None,
    data: Data = None,
    keep_days: KeepDays = 7.0,
    keep_gb: KeepGb = None,
    grace: Grace = 30.0,
    allow_url: AllowUrl = None,
    allow_webhook: AllowWebhook = None,
    asset_days: AssetDays = 7.0,
    asset_gb: AssetGb = 10.0,
    asset_mb: AssetMb = 2000.0,
    asset_count: AssetCount = 10_000,
    asset_uploads: AssetUploads = 8,
    config: Config = None,
    check: Check = False,
    json: Annotated[bool, typer.Option("--json", help="With --check, print JSON.")] = False,
    supervised: Supervised = True,
    device: take.Device = None,
    engine: take.EngineChoice = None,
    gpus: take.Gpus = None,
    layout: take.LayoutText = None,
    decode_ranks: take.DecodeRanks = None,
    weights: take.Weights = None,
    encoder: take.EncoderPlace = None,
    debug: take.Debug = False,
) -> None:
    """Serve models over gRPC and HTTP until Ctrl-C.

    Only this machine can reach it unless another address is named, which wants a token, TLS, or both. Whoever stops it
    lets running videos end first; stopped again, it ends them. Renders that were submitted are kept, and go on when it
    is started again.
    """
    said = dict(locals())  # every option by its name
    session = session_of(context)
    session.set_debug(wanted=debug)
    from reelray.cluster.supervisor.seat import Seat  # noqa: PLC0415  `--help` needs none of this
    from reelray.cluster.supervisor.supervise import supervise  # noqa: PLC0415

    seat = supervise(_tell) if supervised and not check else Seat()
    from reelray.cluster.serve_extra import needs_serve_extra  # noqa: PLC0415

    with needs_serve_extra():
        from reelray.cluster.gateway.serving import serve as run  # noqa: PLC0415
        from reelray.cluster.serve_config.check import print_check  # noqa: PLC0415
        from reelray.cluster.serve_config.merging import merge_options  # noqa: PLC0415

    options = merge_options(said, _given(context), config)
    if check:
        print_check(options, session.services, typer.echo, as_json=json)
    else:
        run(options, session.services, _tell, seat)


def _given(context: typer.Context) -> set[str]:
    """Names of options that were not left to their defaults."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name != "DEFAULT"}


def _tell(line: str) -> None:
    typer.echo(line, err=True)
