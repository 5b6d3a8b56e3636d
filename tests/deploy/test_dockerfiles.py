"""The images: pinned, not root, nothing baked in, and the gateway's without PyTorch."""

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.dockerfile import ROOT, copied_paths, faults, health_command, stages

FILES = sorted((ROOT / "deploy").glob("*.Dockerfile"))
OF_MODELS = {"diffusers", "safetensors", "sentencepiece", "torch", "transformers"}
"""Dependencies that only engines import."""


def name_of(requirement):
    return re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {name_of(line) for line in lines if "==" in line}


def gateway_requirements():
    lines = (ROOT / "deploy" / "gateway-requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_image_is_as_it_should_be(file):
    assert faults(file.read_text()) == []


def test_there_are_images_for_both():
    assert [file.name for file in FILES] == ["engine.Dockerfile", "gateway.Dockerfile"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("USER 1000:1000\n", "", "runs as root"),
        ("USER 1000:1000\n", "USER 1000\nUSER 0\n", "runs as root"),
        ("--constraint constraints.txt --req", "--req", "not pinned: pip install --req"),
        ("FROM python:3.11", "FROM registry.example.org/python:3.11", "base image 'registry"),
        ("FROM python:3.11-slim-bookworm\n", "FROM python\n", "base image 'python'"),
        ("USER 1000:1000\n", "USER 1000:1000\nENV REELRAY_TOKEN=abcdefgh\n", "a secret in ENV REELRAY_TOKEN"),
        ("HEALTHCHECK", "LABEL", "no health check"),
        ("COPY --from=build /opt/reelray /opt/reelray\n", "", "one stage only"),
        ("COPY constraints.txt ./", "COPY constraint.txt ./", "no 'constraint.txt' to copy"),
    ],
)
def test_a_spoilt_image_is_seen(old, new, fault):
    text = (ROOT / "deploy" / "gateway.Dockerfile").read_text()
    assert old in text
    assert [found for found in faults(text.replace(old, new)) if found.startswith(fault)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_is_copied_travels_and_nothing_else(file):
    lines = Path(f"{file}.dockerignore").read_text().splitlines()
    let_through = {line.removeprefix("!") for line in lines if line.startswith("!")}
    wanted = {str(Path(path)) for path in copied_paths(file.read_text())}
    assert "*" in lines
    assert wanted <= let_through <= wanted | {"deploy/gateway-requirements.txt"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_health_check_asks_the_port_that_is_open(file):
    text = file.read_text()
    python, _, module, address = health_command(text)
    assert (python, importlib.util.find_spec(module) is not None) == ("python", True)
    assert ("EXPOSE", address.rpartition(":")[2]) in stages(text)[-1]


def test_what_outlives_a_container_lies_where_a_volume_can_be():
    """A new volume takes its owner from the folder that it is mounted over."""
    last = stages((ROOT / "deploy" / "engine.Dockerfile").read_text())[-1]
    (environment,) = (text for word, text in last if word == "ENV")
    folder = re.search(r"REELRAY_DATA_DIR=(\S+)", environment)[1]
    (run,) = (text for word, text in last if word == "RUN")
    assert f"install --directory --owner 1000 --group 1000 {folder}" in run
    assert f"-v reelray-data:{folder} " in (ROOT / "docs" / "deploy.md").read_text()


def test_gateways_need_what_the_project_needs_but_for_models():
    named = {name_of(line) for line in (*project()["dependencies"], *project()["optional-dependencies"]["serve"])}
    assert named >= OF_MODELS
    assert {name_of(line) for line in gateway_requirements()} == named - OF_MODELS


def test_whatever_an_image_installs_is_pinned():
    """As far as it is installed here; CUDA's libraries come pinned by torch."""
    extras = project()["optional-dependencies"]
    todo, seen = [*project()["dependencies"], *extras["serve"], *extras["gpu"]], set()
    while todo:
        requirement = todo.pop()
        key = (name_of(requirement), tuple(sorted(re.findall(r"\[([\w,-]+)\]", requirement))))
        if key not in seen:
            seen.add(key)
            todo += list(_requirements(*key))
    installed = {name for name, _ in seen if _is_installed(name)}
    assert "ray" in installed
    assert sorted(installed - pinned()) == []


def _is_installed(name):
    try:
        return bool(importlib.metadata.distribution(name))
    except importlib.metadata.PackageNotFoundError:
        return False


def _requirements(name, extras):
    from packaging.requirements import Requirement

    if not _is_installed(name):
        return
    for text in importlib.metadata.requires(name) or ():
        requirement = Requirement(text)
        wanted = [extra for group in extras for extra in group.split(",")] or [""]
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in wanted):
            yield f"{requirement.name}[{','.join(requirement.extras)}]" if requirement.extras else requirement.name


WITHOUT_MODELS = """
import importlib.abc, sys, warnings

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"{name} is not in this image", name=name)

sys.meta_path.insert(0, Missing())
warnings.simplefilter("ignore")
import reelray
from reelray.cluster.cli import main
from reelray.cluster.serve_app import app, beside, leave, probe
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import serve

with serve(FakeEngine()) as address:
    assert probe.takes_calls(address)
    with reelray.Client(address) as client:
        assert client.render("x").frames.shape == (17, 64, 96, 3)
    status = main(["render", "x", "--server", address, "--output", "x.mp4"])
assert not probe.takes_calls(address)
print(status, sys.argv[1])
"""


def test_a_gateway_and_a_client_run_without_the_packages_of_models(tmp_path):
    blocked = ",".join(sorted(OF_MODELS | {"triton", "xfuser", "tokenizers"}))
    command = [sys.executable, "-c", WITHOUT_MODELS, blocked]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == [f"0 {blocked}"], done.stderr
    assert (tmp_path / "x.mp4").stat().st_size > 1000
