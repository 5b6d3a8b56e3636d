"""The checkpoints of this machine, by name or by folder."""

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reelray.proto.errors import CheckpointError, UnknownModelError
from reelray.proto.model_facts import ModelFacts
from reelray.proto.recipe import Recipe

PACKAGED = Path(__file__).parents[1] / "checkpoints"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelEntry:
    """A checkpoint that can be rendered with.

    Args:
        name: What users call it.
        path: Its folder.
        layout: How its files are laid out, such as ``diffusers``.
        recipe: Sampling as data.
        facts: Geometry.
        weights_bytes: Size of its weight files.
        preview: File of a preview decoder that a user has named, to be used instead of its own.
    """

    name: str
    path: Path
    layout: str
    recipe: Recipe
    facts: ModelFacts
    weights_bytes: int
    preview: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokenModel:
    """A folder that looks like a checkpoint and cannot be used."""

    name: str
    path: Path
    problem: str


Describe = Callable[[Path], ModelEntry]
"""Reads what a folder says of itself, without its weights; raises CheckpointError."""


class ModelCatalog:
    """Finds checkpoints in folders of folders.

    Args:
        folders: Searched in this order; a missing one is skipped.
        presets: Recipes this build knows by name, whether or not their weights are here.
        describe: Reads one checkpoint folder.
    """

    def __init__(self, folders: Iterable[Path], presets: Mapping[str, Recipe], describe: Describe) -> None:
        self.folders = tuple(folders)
        self.presets = presets
        self._describe = describe

    def find(self, model: str) -> ModelEntry:
        """Find a model by preset name, by folder name, or by path.

        Raises:
            UnknownModelError: Nothing has this name; the message lists what does.
            CheckpointError: The folder exists and is not a usable checkpoint.
        """
        if not model.strip():
            raise UnknownModelError("the model's name is empty; leave --model out for the default")
        if is_path(model):
            path = Path(model).expanduser()
            if not path.exists():
                raise UnknownModelError(f"model folder '{model}' does not exist")
            if not path.is_dir():
                raise CheckpointError(f"model '{model}' is a file; name the checkpoint's folder")
            return self._describe(path)
        for folder in self.folders:
            path = folder / model
            if path.is_dir():
                return self._describe(path)
        if Path(model).is_dir():
            return self._describe(Path(model))
        raise self._unknown(model)

    def scan(self) -> list[ModelEntry | BrokenModel]:
        """Describe every checkpoint folder; of two with one name the first found counts."""
        found: dict[str, ModelEntry | BrokenModel] = {}
        for folder in self.folders:
            for path in _subfolders(folder):
                if path.name in found:
                    continue
                try:
                    found[path.name] = self._describe(path)
                except CheckpointError as error:
                    found[path.name] = BrokenModel(name=path.name, path=path, problem=error.message)
        return list(found.values())

    def names(self) -> list[str]:
        """Names that `find` resolves without a path."""
        return sorted({path.name for folder in self.folders for path in _subfolders(folder)})

    def _unknown(self, model: str) -> UnknownModelError:
        here = self.names()
        places = ", ".join(str(folder) for folder in self.folders)
        if model in self.presets:
            return UnknownModelError(
                f"model '{model}' is known, but its weights are not here: put its checkpoint folder, named '{model}', "
                f"into one of {places}, or give its path (--model ./{model})"
            )
        close = difflib.get_close_matches(model, [*here, *self.presets], n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        listed = ", ".join(here) or "none"
        return UnknownModelError(
            f"unknown model '{model}'; {hint}models here: {listed}; a folder is named by its path (--model ./folder)"
        )


def is_path(model: str) -> bool:
    """True when the text can only be a path, not a model's name."""
    separators = {os.sep, os.altsep} - {None}
    return model.startswith((".", "~")) or any(separator in model for separator in separators if separator)


def folder_bytes(path: Path) -> int:
    """Size of every file below a folder."""
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))
    except OSError:
        return []
