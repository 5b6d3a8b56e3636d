"""The manifests of `deploy/kubernetes`, and what is asked of them in several tests."""

import json
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
FILES = {"RayService": "rayservice.yaml", "RayJob": "rayjob.yaml"}


def load(kind):
    """The Ray resource of a manifest."""
    return next(resource for resource in load_all(kind) if resource["kind"] == kind)


def load_all(kind):
    """All resources of the manifest of a Ray resource."""
    return list(yaml.safe_load_all((FOLDER / FILES[kind]).read_text()))


def cluster_of(resource):
    return resource["spec"].get("rayClusterConfig") or resource["spec"]["rayClusterSpec"]


def groups_of(resource):
    """Pods by the name of their group; the head's is `head`."""
    cluster = cluster_of(resource)
    named = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"], **named}


def pod_of(group):
    return group["template"]["spec"]


def container_of(group):
    return pod_of(group)["containers"][0]


def booked_resources(group):
    """Ray's custom resources of each pod: JSON text in a shell's quotes in YAML text."""
    text = group["rayStartParams"].get("resources")
    return {} if text is None else json.loads(json.loads(text))


def config_map(kind):
    return next(resource["data"] for resource in load_all(kind) if resource["kind"] == "ConfigMap")
