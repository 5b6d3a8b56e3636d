"""`reelray simulate`: how a fleet would serve a trace."""

import json as jsonlib
from pathlib import Path
from typing import Annotated, Literal

import typer

from reelray.cluster.cli import render_options as take
from reelray.cluster.cli.session import session_of

SIMULATE_EPILOG = """\b
Examples:
  reelray simulate --trace mixed --model wan2.1-1.3b --gpus 16
  reelray simulate --trace failure --model wan2.1-14b --gpus 64 --policy fifo
  reelray simulate --trace poisson:rate=40,mix=17/49/81,interactive=0.3,seconds=600 \\
      --model wan2.1-1.3b --gpus 1024 --json | jq .utilisation
  reelray simulate --trace mine.jsonl --gpus 8 --engine-gpus 4 --plot waits.png
"""

EngineGpus = Annotated[
    int | None, typer.Option(metavar="N", help="GPUs of one engine. Default: 8, or all if there are fewer.")
]


def simulate(
    context: typer.Context,
    *,
    trace: Annotated[
        str,
        typer.Option(
            metavar="FILE|NAME|poisson:...",
            help="What comes when: a file of JSON lines, mixed, streams, burst or failure, or drawn: "
            "poisson: with any of rate, mix, interactive, streams, slo, within, tenants, seconds and seed.",
        ),
    ],
    model: take.Model = None,
    gpus: Annotated[int, typer.Option(metavar="N", help="GPUs of all engines; they need not be here.")] = 8,
    engine_gpus: EngineGpus = None,
    gpu_memory: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="Memory of each GPU, such as 24GiB. Default: an H200's.")
    ] = None,
    links: Annotated[Literal["nvlink", "pcie", "none"], typer.Option(help="What joins the GPUs.")] = "nvlink",
    policy: Annotated[
        Literal["fair", "fifo", "turns", "counts"],
        typer.Option(help="fair is what serves; fifo knows one line; turns and counts know no cost."),
    ] = "fair",
    error: Annotated[
        float, typer.Option(metavar="SHARE", help="True times differ from predicted ones by up to this share.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Of these differences.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw waits into this .png, .svg or .pdf; needs matplotlib.")
    ] = None,
    debug: take.Debug = False,
) -> None:
    """Simulate how many GPUs would serve a trace, by the scheduler's own decisions.

    Shows deadlines met, waits, makespan, and how busy the GPUs are; times and bytes are those of `reelray plan`.
    """
    session = session_of(context)
    session.set_debug(wanted=debug)
    from reelray.cluster.simulation_plot import check_plot, write_plot  # noqa: PLC0415  `--help` needs none of this
    from reelray.cluster.simulation_report import describe_simulation, simulation_json  # noqa: PLC0415
    from reelray.cluster.simulation_request import SimulationOptions, run_simulation  # noqa: PLC0415

    if plot is not None:
        check_plot(plot)
    options = SimulationOptions(
        trace=trace,
        gpus=gpus,
        engine_gpus=min(8, max(gpus, 1)) if engine_gpus is None else engine_gpus,
        gpu_memory=gpu_memory,
        links=links,
        policy=policy,
        model=model,
        error=error,
        seed=seed,
    )
    run = run_simulation(options, session.services)
    if plot is not None:
        write_plot(run, plot)
    typer.echo(jsonlib.dumps(simulation_json(run), indent=2) if json else describe_simulation(run))
