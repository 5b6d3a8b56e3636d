"""`reelray plan`: how a machine would render, and how fast."""

import json as jsonlib
from typing import Annotated, Literal

import typer

from reelray.cluster.cli import render_options as take
from reelray.cluster.cli.session import session_of
from reelray.proto.errors import ResourceError

PLAN_EPILOG = """\b
Examples:
  reelray plan --model wan2.1-14b --size 1280x720 --frames 81 --gpus 4
  reelray plan --model wan2.1-14b --gpus 2 --gpu-memory 24GiB --links pcie
  reelray plan --model wan2.1-1.3b --gpus 4 --layout cfg=2,ulysses=2
  reelray plan --model wan2.1-14b --gpus 4 --links pcie --patches 4
  reelray plan --model ./my-wan --gpus 8 --json | jq .chosen.layout
"""


def plan(
    context: typer.Context,
    *,
    model: take.Model = None,
    size: take.Size = None,
    frames: take.FrameCount = None,
    steps: take.Steps = None,
    guidance: take.Guidance = None,
    gpus: Annotated[int, typer.Option(metavar="N", help="GPUs of the machine; they need not be here.")] = 1,
    gpu_memory: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="Memory of each GPU, such as 24GiB. Default: an H200's.")
    ] = None,
    links: Annotated[Literal["nvlink", "pcie", "none"], typer.Option(help="What joins the GPUs.")] = "nvlink",
    layout: Annotated[
        str | None,
        typer.Option(metavar="AXIS=N,...", help="Show this layout: cfg, pipe, ring, ulysses, replica. Default: all."),
    ] = None,
    patches: take.Patches = None,
    exact_steps: take.ExactSteps = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: take.Debug = False,
) -> None:
    """Predict time and memory of every legal layout of a render, and choose.

    Weights and GPUs need not be here: a preset's name is enough. Predictions rest on a table of measured rates. The
    exit code is 5 when nothing fits into memory.
    """
    session = session_of(context)
    session.set_debug(wanted=debug)
    from reelray.cluster.plan_report import describe_plan, plan_json  # noqa: PLC0415  `--help` needs none of this
    from reelray.cluster.plan_request import PlanOptions, plan_render  # noqa: PLC0415

    options = PlanOptions(
        model=model,
        size=size,
        frames=frames,
        steps=steps,
        guidance=guidance,
        gpus=gpus,
        gpu_memory=gpu_memory,
        links=links,
        layout=layout,
        patches=patches,
        exact_steps=exact_steps,
    )
    planned = plan_render(options, session.services)
    typer.echo(jsonlib.dumps(plan_json(planned), indent=2) if json else describe_plan(planned))
    if planned.plan.chosen is None:
        raise typer.Exit(ResourceError.exit_code)
