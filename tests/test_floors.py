"""The rooms import downwards only, and Ray stays in its named files."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "reelray"
ALLOWED = {
    "proto": set(),
    "kernels": set(),
    "quality": set(),
    "scheduler": {"proto"},
    "workers": {"proto", "kernels"},
    "cluster": {"proto", "scheduler", "workers", "quality"},
}
RAY_FILES = {
    "workers/actor.py",
    "cluster/embedded_ray.py",
    "cluster/ray_surroundings.py",
    "cluster/remote_engine.py",
    "cluster/serve_app/__main__.py",
    "cluster/serve_app/app.py",
    "cluster/serve_app/beside.py",
    "cluster/serve_app/engine_replica.py",
    "cluster/serve_app/gateway_replica.py",
    "cluster/serve_app/leave.py",
}
NEVER = {"proto": {"torch", "ray", "numpy"}, "scheduler": {"torch", "ray", "numpy", "time", "random", "asyncio"}}


def imported_modules(path: Path) -> set[str]:
    found: set[str] = set()
    package = ["reelray", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            found.add(".".join([*base, *([node.module] if node.module else [])]))
            if (node.module or "reelray") == "reelray":
                found |= {"reelray." + alias.name for alias in node.names}
    return found


def sources() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if "_pb2" not in p.name)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_respect_the_floors(path: Path) -> None:
    parts = path.relative_to(PACKAGE).parts
    if len(parts) == 1:
        return
    room = parts[0]
    modules = imported_modules(path)
    rooms = {m.split(".")[1] for m in modules if m.startswith("reelray.")}
    assert rooms - {room} <= ALLOWED[room]
    top = {m.split(".")[0] for m in modules}
    assert not top & NEVER.get(room, set())
    if "ray" in top:
        assert str(path.relative_to(PACKAGE)) in RAY_FILES


def test_import_reelray_pulls_in_neither_torch_nor_ray() -> None:
    code = "import sys, reelray; print([m for m in ('torch', 'ray') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
