"""`manifest.yaml`: a recipe as people write it, checked field by field.

The schema is derived from the dataclasses of `proto.recipe`, so that a new field needs no second place. A section
`weights` may stand beside the recipe; it says where files lie and is no part of it.
"""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import ErrorDetails

from reelray.proto.bank_rule import BankRule
from reelray.proto.chunking import Chunking
from reelray.proto.decoder import Decoder
from reelray.proto.errors import ManifestError
from reelray.proto.memory_rule import MemoryRule
from reelray.proto.recipe import Defaults, Guidance, Recipe, Schedule
from reelray.workers.recipes.weights_section import WEIGHTS_KEYS, LoraSection, WeightsSection

FILE_NAME = "manifest.yaml"
SECTIONS: Mapping[str, type[Any]] = {
    "schedule": Schedule,
    "guidance": Guidance,
    "chunking": Chunking,
    "defaults": Defaults,
    "memory": MemoryRule,
}
OPTIONAL = "memory"
"""The section that a recipe may do without."""
BANK = "bank"
"""The section that this one may do without."""
WEIGHTS = "weights"
KINDS: Mapping[str, type[Any]] = {
    **SECTIONS,
    f"{OPTIONAL}.{BANK}": BankRule,
    WEIGHTS: WeightsSection,
    f"{WEIGHTS}.lora": LoraSection,
}
"""What a message about a field of a section draws on."""
CHOICES: Mapping[str, Any] = {
    "model": Literal["wan"],
    "task": Literal["t2v", "i2v"],
    "decoder": Decoder,
}
POSITIVE = ("text_tokens", "defaults.width", "defaults.height", "defaults.frames", "defaults.fps")


def read_manifest(path: Path) -> Recipe:
    """Read a manifest file.

    Args:
        path: The YAML file.

    Raises:
        ManifestError: The file is missing or not YAML, or fields are wrong: one line each.
    """
    return parse_manifest(read_yaml(path), source=str(path))


def read_weights(path: Path) -> WeightsSection | None:
    """Read the `weights` section of a manifest file.

    Args:
        path: The YAML file; a missing one has no sections.

    Returns:
        The section, its paths resolved against the manifest's folder; None where there is none.

    Raises:
        ManifestError: As `read_manifest`.
    """
    data = read_yaml(path) if path.is_file() else None
    if not isinstance(data, dict) or WEIGHTS not in data:
        return None
    _, weights = _parse(data, str(path))
    return weights and weights.resolve(path.parent)


def read_yaml(path: Path) -> object:
    """Read a YAML file as plain data.

    Raises:
        ManifestError: The file is missing or not YAML; the message names line and column.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ManifestError(f"{path}: not valid YAML: {place}{error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: not a YAML text file in UTF-8") from error
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error


def parse_manifest(data: object, *, source: str) -> Recipe:
    """Turn plain data into a recipe.

    Args:
        data: What the YAML file holds.
        source: Name of the file, for messages.

    Raises:
        ManifestError: Fields are unknown, missing or wrong: one line each.
    """
    return _parse(data, source)[0]


def _parse(data: object, source: str) -> tuple[Recipe, WeightsSection | None]:
    if not isinstance(data, dict):
        raise ManifestError(
            f"{source}: holds {_show(data)}; a mapping of fields such as `name` and `schedule` is needed"
        )
    try:
        # Strict checking of JSON takes lists as tuples and words as enum members, and nothing else by surprise.
        checked = build_schema().model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)
        lines = [f"{source}: {_describe(detail)}" for detail in details]
        raise ManifestError("\n".join(dict.fromkeys(lines))) from error
    return _build(checked.model_dump(exclude_unset=True), source)


@cache
def build_schema() -> type[BaseModel]:
    """Mirror the recipe's and the weights section's dataclasses as a pydantic model that forbids unknown fields."""
    sections: dict[str, Any] = {name: (_mirror(kind), {}) for name, kind in SECTIONS.items()}
    memory: dict[str, Any] = {BANK: (_mirror(BankRule) | None, None)}
    sections[OPTIONAL] = (_mirror(MemoryRule, memory) | None, None)
    choices = {name: (kind, ...) for name, kind in CHOICES.items()}
    weights = _mirror(WeightsSection, {"lora": (_mirror(LoraSection), ...)})
    recipe = _mirror(Recipe, choices | sections)
    more: dict[str, Any] = {WEIGHTS: (weights, None)}
    return create_model("Manifest", __base__=recipe, **more)


def _mirror(kind: type[Any], overrides: Mapping[str, Any] | None = None) -> type[BaseModel]:
    hints = get_type_hints(kind)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        default = ... if field.default is dataclasses.MISSING else field.default
        annotation = hints[field.name]
        if overrides and field.name in overrides:
            annotation, wished = overrides[field.name]
            default = default if wished is ... else wished
        fields[field.name] = (annotation, default)
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    return create_model(kind.__name__, __config__=config, **fields)


def _build(data: dict[str, Any], source: str) -> tuple[Recipe, WeightsSection | None]:
    problems: list[str] = []
    weights = data.pop(WEIGHTS, None)
    for name, kind in SECTIONS.items():
        given = data.get(name, None if name == OPTIONAL else {})
        try:
            data[name] = None if given is None else _build_section(kind, given)
        except ValueError as error:
            problems.append(f"{source}: field `{name}`: {error}")
    try:
        section = weights and _build_weights(weights)
    except ValueError as error:
        problems.append(f"{source}: field `{WEIGHTS}`: {error}")
    if not problems:
        try:
            recipe = Recipe(**data)
        except ValueError as error:
            raise ManifestError(f"{source}: {error}") from None
        problems = [f"{source}: {line}" for line in _find_non_positive(recipe)]
        if not problems:
            return recipe, section
    raise ManifestError("\n".join(problems))


def _build_section(kind: type[Any], given: Mapping[str, Any]) -> Any:
    bank = given.get(BANK)
    return kind(**given) if bank is None else kind(**{**given, BANK: BankRule(**bank)})


def _build_weights(data: dict[str, Any]) -> WeightsSection:
    lora = data.get("lora")
    return WeightsSection(**{**data, "lora": lora and LoraSection(**lora)})


def _find_non_positive(recipe: Recipe) -> list[str]:
    lines = []
    for path in POSITIVE:
        value: Any = recipe
        for name in path.split("."):
            value = getattr(value, name)
        if value < 1:
            lines.append(f"field `{path}` is {value}; it must be at least 1")
    return lines


def _describe(detail: ErrorDetails) -> str:
    path = ".".join(str(part) for part in detail["loc"])
    match detail["type"]:
        case "missing":
            return f"field `{path}` is missing"
        case "extra_forbidden":
            return f"field `{path}` is not known; {_suggest(detail['loc'])}"
        case "enum" | "literal_error":
            return f"field `{path}` is {_show(detail['input'])}; allowed: {', '.join(_allowed(detail['loc']))}"
        case _:
            wanted = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            return f"field `{path}` is {_show(detail['input'])}; allowed: {wanted}"


def _suggest(location: tuple[int | str, ...]) -> str:
    kind = KINDS.get(".".join(str(part) for part in location[:-1]), Recipe)
    names = [field.name for field in dataclasses.fields(kind)] + [WEIGHTS] * (kind is Recipe)
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    hint = f"did you mean `{close[0]}`? " if close else ""
    return f"{hint}allowed: {', '.join(names)}"


def _allowed(location: tuple[int | str, ...]) -> list[str]:
    if len(location) == 1:
        kind = CHOICES[str(location[0])]
        return [str(choice) for choice in getattr(kind, "__args__", kind)]
    if location == (WEIGHTS, "key"):
        return list(WEIGHTS_KEYS)
    kind = get_type_hints(SECTIONS[str(location[0])])[str(location[1])]
    return [str(member) for member in kind] if issubclass(kind, StrEnum) else []


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
