"""`reelray bench`: measures this machine."""

import datetime as dt
import json as jsonlib
from pathlib import Path

import typer

from reelray.cluster.cli import bench_options as of
from reelray.cluster.cli import render_options as take
from reelray.cluster.cli.session import session_of

BENCH_EPILOG = """\b
Examples:
  reelray bench parallel --model wan2.1-1.3b --size 832x480 --frames 81 --against diffusers
  reelray bench parallel --model wan2.1-14b --layouts "cfg=2,ulysses=2;ulysses=4"
  reelray bench parallel --model wan2.1-1.3b --frames 9 --remembered 9 --measure forward
  reelray bench parallel --model wan2.1-1.3b --gpus 2 --device cpu --tiny
"""

bench = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@bench.callback()
def _bench() -> None:
    """Measure this machine."""


@bench.command(epilog=BENCH_EPILOG)
def parallel(
    context: typer.Context,
    *,
    model: take.Model = None,
    size: take.Size = None,
    frames: take.FrameCount = None,
    gpus: of.Gpus = 4,
    layouts: of.Layouts = None,
    head_groups: of.HeadGroups = "1",
    runs: of.Runs = 5,
    warmup: of.Warmup = 1,
    measure: of.Measure = None,
    against: of.Against = None,
    device: of.BenchDevice = "cuda",
    links: of.Links = "nvlink",
    tiny: of.Tiny = False,
    remembered: of.Remembered = 0,
    limit: of.Limit = 540.0,
    out: of.Out = None,
    table: of.Table = None,
    json: of.Json = False,
    debug: take.Debug = False,
) -> None:
    """Time layouts of a model on several ranks, beside other implementations and the plan's predictions.

    Weights of a preset need not be here: they are drawn at random, at the model's true size. Every layout is first
    compared with one rank; nothing is timed when a result is wrong, and the exit code is 6. Writes a report and a
    calibration table.
    """
    session = session_of(context)
    session.set_debug(wanted=debug)
    from reelray.cluster.bench.report import describe_text, write_result  # noqa: PLC0415  `--help` needs none of it
    from reelray.cluster.bench.request import BenchOptions, make_request  # noqa: PLC0415
    from reelray.cluster.bench.run import run_bench  # noqa: PLC0415

    options = BenchOptions(
        model=model,
        size=size,
        frames=frames,
        gpus=gpus,
        layouts=layouts,
        head_groups=head_groups,
        runs=runs,
        warmup=warmup,
        device=device,
        tiny=tiny,
        against=_split(against),
        parts=_split(measure),
        links=links,
        limit_s=limit,
        remembered=remembered,
    )
    request = make_request(options, session.services)
    stem = f"parallel-{request.title}-{dt.datetime.now(dt.UTC).date()}"
    result = run_bench(request, base=table)
    written = write_result(result, out or Path(f"{stem}.json"), table or Path(f"{stem}.table.json"))
    typer.echo(jsonlib.dumps(result.report, indent=2) if json else describe_text(result.report))
    typer.echo(f"wrote {', '.join(map(str, written))}", err=True)
    if result.failure is not None:
        raise result.failure


def _split(names: list[str] | None) -> tuple[str, ...]:
    """An option given again, or its values with spaces or commas between them."""
    return tuple(part for name in names or () for part in name.replace(",", " ").split())
