"""What `reelray models` says."""

from collections.abc import Sequence

from reelray.cluster.model_catalog import BrokenModel, ModelCatalog, ModelEntry

COLUMNS = ("name", "task", "size", "frames", "gigabytes", "licence", "path")


def list_models(catalog: ModelCatalog) -> list[dict[str, object]]:
    """Checkpoints found, then presets whose weights are not here; JSON-ready."""
    found = catalog.scan()
    listed = [_entry(model) if isinstance(model, ModelEntry) else _broken(model) for model in found]
    here = {model.name for model in found}
    missing: list[dict[str, object]] = [
        {"name": name, "task": recipe.task, "licence": recipe.licence, "path": None, "problem": "no weights here"}
        for name, recipe in sorted(catalog.presets.items())
        if name not in here
    ]
    return listed + missing


def describe_models(listed: Sequence[dict[str, object]]) -> str:
    """The list as a table."""
    rows = [COLUMNS, *(tuple(_cell(model, column) for column in COLUMNS) for model in listed)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _cell(model: dict[str, object], column: str) -> str:
    if column == "path" and model.get("problem"):
        return f"{model['path'] or ''} ({model['problem']})".strip()
    return str(model.get(column) or "")


def _entry(model: ModelEntry) -> dict[str, object]:
    defaults = model.recipe.defaults
    return {
        "name": model.name,
        "task": model.recipe.task,
        "family": model.facts.family,
        "layout": model.layout,
        "size": f"{defaults.width}x{defaults.height}",
        "frames": defaults.frames,
        "fps": defaults.fps,
        "parameters": model.facts.parameters,
        "gigabytes": round(model.weights_bytes / 1e9, 2),
        "licence": model.recipe.licence,
        "path": str(model.path),
        "problem": None,
    }


def _broken(model: BrokenModel) -> dict[str, object]:
    return {"name": model.name, "path": str(model.path), "problem": model.problem}
