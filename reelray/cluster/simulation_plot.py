"""Pictures of a simulation."""

from importlib.util import find_spec
from pathlib import Path

from reelray.cluster.simulation_request import SimulatedRun
from reelray.proto.errors import InputError, OutputError

SUFFIXES = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Refuse a plot that cannot be made, before anything is simulated.

    Raises:
        InputError: matplotlib is not installed, or the ending names no picture.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"plot is {path.name}; its ending must be one of {', '.join(SUFFIXES)}")
    if find_spec("matplotlib") is None:  # pictures are for development; serving goes without
        raise InputError("--plot needs matplotlib, which is not installed: pip install matplotlib")


def write_plot(run: SimulatedRun, path: Path) -> None:
    """Draw waiting times by arrival, and how many requests wait that long at most.

    Raises:
        OutputError: The picture cannot be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  it may not be there

    figure = Figure(figsize=(11, 4), layout="constrained")
    over_time, shares = figure.subplots(1, 2)
    for group in [group.group for group in run.result.groups]:
        rows = [(r.at_s, r.start_s - r.at_s) for r in run.records if r.group == group and r.start_s is not None]
        waits = sorted(wait for _, wait in rows)
        over_time.plot([at for at, _ in rows], [wait for _, wait in rows], ".", markersize=3, label=group)
        shares.step(waits, [(n + 1) / len(waits) for n in range(len(waits))], where="post", label=group)
    over_time.set(xlabel="arrival (s)", ylabel="wait (s)", title=f"{run.options.policy}: waits")
    shares.set(xlabel="wait (s)", ylabel="share of requests", title=f"{run.result.utilisation:.0%} busy")
    over_time.legend()
    try:
        figure.savefig(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None
