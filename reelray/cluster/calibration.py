"""Reads calibration tables: JSON in which every number says where it comes from."""

import datetime as dt
import json
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from reelray.scheduler.plan.calibration import Calibration, Curve
from reelray.scheduler.plan.machine import Link

DEFAULT_TABLE = "h200"
CURVES = (
    *("gemm_tflops", "attention_tflops", "decode_speedup"),
    *("exchange_nvlink_ms", "exchange_pcie_ms", "ulysses_nvlink_ms"),
)
INTEGERS = ("memory_bytes", "context_bytes", "group_bytes")
SCALARS = (
    *("gemm_half_size", "cross_tflops", "memory_gb_s", "passes_dim", "passes_ffn", "relayout_gb_s", "launch_ms"),
    *(
        "exchange_launch_ms",
        "exchange_overlap",
        "host_gb_s",
        "host_total_gb_s",
        "copy_overlap",
        "text_tflops",
        "decode_tflops",
        "graph_pool_factor",
    ),
)


class _Number(BaseModel):
    """A value with its origin."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    kind: Literal["measured", "fitted", "derived", "reported", "assumed"]
    source: str = Field(min_length=1)
    date: dt.date


def _schema() -> type[BaseModel]:
    kinds: tuple[tuple[tuple[str, ...], Any], ...] = (
        (CURVES, list[tuple[float, float]]),
        (INTEGERS, int),
        (SCALARS, float),
    )
    numbers: dict[str, Any] = {
        name: (create_model(f"_{name}", __base__=_Number, value=(kind, ...)), ...)
        for names, kind in kinds
        for name in names
    }
    forbid = ConfigDict(extra="forbid")
    return create_model(
        "Table", __config__=forbid, name=(str, ...), about=(str, ...),
        numbers=(create_model("Numbers", __config__=forbid, **numbers), ...),
    )  # fmt: skip


def load_calibration(name: str = DEFAULT_TABLE) -> Calibration:
    """Read a table of the package."""
    folder = resources.files("reelray.scheduler.plan") / "tables"
    return read_calibration(folder / f"{name}.json")


def read_calibration(file: Traversable) -> Calibration:
    """Read and check a table.

    Raises:
        ValueError: It is not JSON, or a number is missing, unknown, out of range or without an origin.
    """
    return parse_calibration(read_table(file), file.name)


def read_table(file: Traversable) -> Any:
    """Read a table as it stands, origins included.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file.name}: {error}") from error


def packaged_table(name: str = DEFAULT_TABLE) -> Any:
    """A table of the package as it stands, origins included."""
    return read_table(resources.files("reelray.scheduler.plan") / "tables" / f"{name}.json")


def parse_calibration(data: object, source: str) -> Calibration:
    """Check a table.

    Args:
        data: As JSON gives it.
        source: What to call it in an error.

    Raises:
        ValueError: A number is missing, unknown, out of range or without an origin.
    """
    try:
        table = cast("Any", _schema()).model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{source}: {where}: {first['msg']}") from error
    values: dict[str, Any] = {name: getattr(table.numbers, name).value for name in (*INTEGERS, *SCALARS)}
    values |= {name: Curve(tuple(getattr(table.numbers, name).value)) for name in CURVES}
    links = {link: values.pop(f"exchange_{link}_ms") for link in (Link.NVLINK, Link.PCIE)}
    ulysses = {Link.NVLINK: values.pop("ulysses_nvlink_ms")}
    return Calibration(name=table.name, exchange_ms=links, ulysses_ms=ulysses, **values)
