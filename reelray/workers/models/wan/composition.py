"""Checkpoints whose manifest takes all parts from a base and replaces its transformer. Nothing here imports torch."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from reelray.proto.errors import CheckpointError, ManifestError, UnknownModelError, WeightsError
from reelray.workers.models.weight_files import digest_files, find_weight_files
from reelray.workers.recipes.manifest import FILE_NAME, read_weights
from reelray.workers.recipes.weights_section import LoraSection, WeightsSection

if TYPE_CHECKING:
    from reelray.workers.models.wan.layout import Layout

PICKLES = (".pt", ".pth")
WEIGHT_SUFFIXES = (*PICKLES, ".safetensors")


def compose_layout(folder: Path, section: WeightsSection, find_base: Callable[[Path], "Layout"]) -> "Layout":
    """Put a layout together from a base and the files that a manifest names.

    Args:
        folder: The checkpoint with the manifest.
        section: What the manifest says, its paths resolved.
        find_base: Looks a complete checkpoint over.

    Raises:
        ManifestError: A path of the section leads nowhere, or its fields do not fit the files.
        CheckpointError: The base is not a complete checkpoint.
    """
    manifest = folder / FILE_NAME
    base = _find_base(manifest, section.base, find_base)
    weights = dict(base.weights)
    if section.transformer is not None:
        weights["transformer"] = _find_transformer(manifest, section.transformer)
        if section.key is not None and weights["transformer"][0].suffix not in PICKLES:
            raise ManifestError(
                f"{manifest}: field `weights.key` is {section.key!r}, but {weights['transformer'][0].name} has no "
                f"sub-dicts; allowed: a key for {' and '.join(PICKLES)} files only"
            )
    if section.lora is not None:
        weights["lora"] = (_find_lora(manifest, section.lora),)
    return dataclasses.replace(base, folder=folder, weights=weights, base=base, section=section)


def digest_layout(layout: "Layout") -> str:
    """Name the weights of a checkpoint: files, and how a manifest composes them. It does not matter where they lie.

    Returns:
        32 hex digits.
    """
    if layout.base is None or layout.section is None:
        return digest_files(layout.files, layout.folder)
    kept = set(layout.base.files) - set(layout.base.weights["transformer"])
    if layout.section.transformer is None:
        kept = set(layout.base.files)
    section, lora = layout.section, layout.section.lora
    parts = [digest_files(kept, layout.base.folder), repr(section.key)]
    for part in ("transformer", "lora"):
        parts += [digest_files([file], file.parent) for file in layout.weights.get(part, ())]
    if lora is not None:
        parts.append(repr((lora.key, lora.alpha, lora.strength)))
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def _find_base(manifest: Path, base: Path, find_base: Callable[[Path], "Layout"]) -> "Layout":
    said = f"{manifest}: field `weights.base`"
    if not base.is_dir():
        raise ManifestError(f"{said}: {base}: {'is a file' if base.exists() else 'no such folder'}; name a folder")
    if read_weights(base / FILE_NAME) is not None:
        raise ManifestError(f"{said}: {base} has a `weights` section too; name a folder that is complete by itself")
    try:
        return find_base(base)
    except UnknownModelError as error:
        raise ManifestError(f"{said}: {error.message}") from error
    except CheckpointError as error:
        raise type(error)(f"{said}: {error.message}") from error


def _find_transformer(manifest: Path, path: Path) -> tuple[Path, ...]:
    if path.is_dir():
        pickles = sorted(file for file in path.iterdir() if file.suffix in PICKLES)
        if pickles and not any(path.glob("*.safetensors")):
            if len(pickles) > 1:
                names = ", ".join(file.name for file in pickles)
                raise ManifestError(f"{manifest}: field `weights.transformer`: {path} holds {names}; name one of them")
            return (pickles[0],)
        return tuple(find_weight_files(path))
    return (_find_file(manifest, "transformer", path),)


def _find_lora(manifest: Path, lora: LoraSection) -> Path:
    file = _find_file(manifest, "lora.path", lora.path)
    if lora.key is not None and file.suffix not in PICKLES:
        raise ManifestError(
            f"{manifest}: field `weights.lora.key` is {lora.key!r}, but {file.name} has no sub-dicts; allowed: a key "
            f"for {' and '.join(PICKLES)} files only"
        )
    return file


def _find_file(manifest: Path, field: str, path: Path) -> Path:
    if not path.is_file():
        raise WeightsError(f"{manifest}: field `weights.{field}`: {path}: no such file")
    if path.suffix not in WEIGHT_SUFFIXES:
        raise ManifestError(
            f"{manifest}: field `weights.{field}` is {path.name!r}; allowed: {', '.join(WEIGHT_SUFFIXES)} files"
        )
    return path
