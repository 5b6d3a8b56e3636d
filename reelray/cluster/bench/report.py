"""What `reelray bench parallel` prints and writes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reelray.cluster.bench.run import BenchResult
from reelray.proto.errors import OutputError

READING = (
    "Medians of interleaved runs, in ms. What ranks share takes as long as the slowest of them; what one rank does, "
    "all do at once, and their mean counts. error: relative, against one rank. plan and calibrated: predictions by the "
    "packaged table and by the one written or named, and their errors."
)
COLUMNS = ("what", "by", "layout", "ranks", "error", "ms", "speed-up", "plan", "calibrated")


def write_result(result: BenchResult, out: Path, table: Path) -> list[Path]:
    """Write the report as JSON and, beside it, as Markdown, and the calibration table.

    Returns:
        The files written.

    Raises:
        OutputError: A file cannot be written.
    """
    page = out.with_suffix(".md")
    files = {out: json.dumps(result.report, indent=2) + "\n", page: describe_page(result.report)}
    if result.table is not None:
        files[table] = json.dumps(result.table, indent=2) + "\n"
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    return list(files)


def describe_page(report: Mapping[str, Any]) -> str:
    """The report as a Markdown page."""
    rows = [COLUMNS, *table_cells(report["rows"])]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(COLUMNS))
    title = f"# Layouts of {report['model']}, {report['width']}x{report['height']}, {report['frames']} frames"
    facts = "\n".join(f"- {name}: {value}" for name, value in report["machine"].items())
    return "\n\n".join([title, describe_head(report), "\n".join(lines), describe_notes(report), facts]) + "\n"


def describe_text(report: Mapping[str, Any]) -> str:
    """The report for a terminal."""
    rows = [COLUMNS, *table_cells(report["rows"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    words = (0, 1, 2)
    lines = [
        "  ".join(f"{c:<{w}}" if i in words else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n\n".join([describe_head(report), "\n".join(line.rstrip() for line in lines), describe_notes(report)])


def describe_head(report: Mapping[str, Any]) -> str:
    """What was measured, where and when."""
    machine = report["machine"]
    size = f"{report['width']}x{report['height']}, {report['frames']} frames, {report['tokens']} tokens"
    if report["remembered_latent_frames"]:
        size += f" after {report['remembered_latent_frames']} remembered latent frames"
    where = f"{machine['ranks']} x {machine['device']}, torch {machine['torch']}, {report['date']}"
    return f"{report['model']}, {report['weights']} weights: {size}; {where}"


def describe_notes(report: Mapping[str, Any]) -> str:
    """How to read the table, what became of the others, and what went wrong."""
    said = [READING]
    for peer, became in report["peers"].items():
        version = report["machine"].get(peer, "")
        said.append(f"{peer}: {became}" if version in {"", became} else f"{peer} {version}: {became}")
    if report["peak_bytes"]:
        said.append(f"Peak memory of the fullest rank: {max(report['peak_bytes']) / 2**30:.1f} GiB.")
    if report["failure"]:
        said.append(f"Not complete: {report['failure']}")
    return "\n\n".join(said)


def table_cells(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """One line of text per row."""
    return [
        (
            row["what"],
            row["by"],
            place(row),
            str(row["ranks"]),
            f"{row['error']:.1e}{' WRONG' if row['wrong'] else ''}",
            number(row["median_ms"], ".2f"),
            number(row.get("speed_up"), ".2f"),
            *predictions(row["predictions"]),
        )
        for row in rows
    ]


def place(row: Mapping[str, Any]) -> str:
    """The layout, and by what way heads are exchanged: of collectives in one group nothing is said."""
    groups = row.get("head_groups")
    way = {None: "", 0: " by shared memory", 1: ""}.get(groups, f" in {groups} groups")
    return (row["layout"] or "one rank") + way


def predictions(found: Mapping[str, Mapping[str, float | None]]) -> tuple[str, str]:
    """The prediction of the packaged table and that of the other."""
    cells = [
        number(said["ms"], ".2f") + ("" if said["error"] is None else f" ({said['error']:+.1%})")
        for said in found.values()
    ]
    first, second = [*cells, "-", "-"][:2]
    return first, second


def number(value: float | None, form: str) -> str:
    """A number, or a dash."""
    return "-" if value is None else f"{value:{form}}"
