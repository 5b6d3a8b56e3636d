"""The options of `reelray bench` as Typer types."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Gpus = Annotated[int, typer.Option(metavar="N", help="Ranks, each with its GPU; on a CPU processes.")]
Layouts = Annotated[
    str | None,
    typer.Option(metavar="LAYOUT;...", help="Such as 'cfg=2,ulysses=2;ring=4'. Default: the usual ones."),
]
HeadGroups = Annotated[
    str, typer.Option(metavar="N,...", help="Head groups to try in layouts with ulysses; 1 overlaps nothing.")
]
Runs = Annotated[int, typer.Option(metavar="N", help="Timed runs of each contender, in turn.")]
Warmup = Annotated[int, typer.Option(metavar="N", help="Untimed runs first, besides the checked one.")]
Measure = Annotated[
    list[str] | None, typer.Option(metavar="PART", help="rates, decode or forward; may be given again. Default: all.")
]
Against = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Other implementation: diffusers or xfuser; may be given again."),
]
BenchDevice = Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the ranks run.")]
Links = Annotated[Literal["nvlink", "pcie"], typer.Option(help="What joins the GPUs.")]
Tiny = Annotated[bool, typer.Option("--tiny", help="Shrink every network of the preset; for CPUs.")]
Limit = Annotated[float, typer.Option(metavar="S", help="Seconds after which everything ends.")]
Remembered = Annotated[
    int, typer.Option(metavar="N", help="Latent frames before the window that forwards attend too, as streams do.")
]
Out = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Report, as JSON; a .md is written beside it. Default: dated.")
]
Table = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Calibration table; one of this machine is refined. Default: dated.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
