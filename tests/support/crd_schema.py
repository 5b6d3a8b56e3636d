"""Definitions of Kubernetes resources as closed JSON schemas: what `kubectl apply --validate=strict` would check."""

import functools
import os
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT.parent / "shared" / "k8s-crds"
OPEN = "x-kubernetes-preserve-unknown-fields"
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def faults(resource):
    """What is wrong with a RayService, RayJob or RayCluster, as `path: message`."""
    validator = jsonschema.Draft202012Validator(_schema(resource["kind"].lower() + "s"))
    found = validator.iter_errors(_without_nulls(resource))
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


@functools.cache
def _schema(plural):
    file = FOLDER / f"ray.io_{plural}.yaml"
    if not file.exists() and not os.environ.get("CI"):
        pytest.skip(f"KubeRay's definitions are not beside this checkout: no {file}")
    with file.open() as text:
        definition = yaml.load(text, Loader=Loader)
    stored = next(version for version in definition["spec"]["versions"] if version["storage"])
    schema = _closed(stored["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def _closed(node):
    """A structural schema by the rules of the API server."""
    schema = {key: value for key, value in node.items() if not key.startswith("x-kubernetes-")}
    if node.get("x-kubernetes-int-or-string"):
        schema["type"] = ["integer", "string"]
    if node.get("nullable"):
        schema["type"] = [schema["type"], "null"]
    fields = {name: _closed(child) for name, child in node.get("properties", {}).items()}
    if fields:
        schema["properties"] = fields
        if "additionalProperties" not in node and not node.get(OPEN):
            schema["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            schema[key] = _closed(node[key])
    if "required" in node:
        schema["required"] = [name for name in node["required"] if "default" not in fields.get(name, {})]
    return schema


def _without_nulls(value):
    if isinstance(value, dict):
        return {key: _without_nulls(child) for key, child in value.items() if child is not None}
    return [_without_nulls(child) for child in value] if isinstance(value, list) else value
