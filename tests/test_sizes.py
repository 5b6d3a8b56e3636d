"""Files and functions stay small; the allow-list is short and dated."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE_CAP, FUNCTION_CAP, CLASS_CAP, PARAMETER_CAP = 400, 60, 250, 9
KERNEL_FUNCTION_CAP = 150
# path or path:function -> the day it was allowed and why
ALLOWED: dict[str, str] = {}


def sources() -> list[Path]:
    folders = ("reelray", "examples", "benchmarks")
    return [p for folder in folders for p in sorted((ROOT / folder).rglob("*.py")) if "_pb2" not in p.name]


def oversized(path: Path) -> list[str]:
    name = str(path.relative_to(ROOT))
    text = path.read_text()
    found = [f"{name}: {text.count(chr(10))} lines"] if text.count("\n") > FILE_CAP else []
    cap = KERNEL_FUNCTION_CAP if "/kernels/" in name else FUNCTION_CAP
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > cap:
                found.append(f"{name}:{node.name}: {lines} lines")
            arguments = [a for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in {"self", "cls"}]
            if len(arguments) > PARAMETER_CAP and "/kernels/" not in name:
                found.append(f"{name}:{node.name}: {len(arguments)} positional parameters")
        elif isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno > CLASS_CAP:
            found.append(f"{name}:{node.name}: class of {(node.end_lineno or 0) - node.lineno} lines")
    return [row for row in found if row.rsplit(": ", 1)[0] not in ALLOWED]


def test_nothing_outgrows_its_cap() -> None:
    assert [row for path in sources() for row in oversized(path)] == []


def test_the_caps_see_a_long_function(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.test_sizes.ROOT" if __name__.startswith("tests.") else f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "reelray" / "probe.py"
    path.parent.mkdir()
    path.write_text("def f():\n" + "    x = 1\n" * 70)
    assert oversized(path) == ["reelray/probe.py:f: 71 lines"]
