"""The manifests against KubeRay's definitions, and against themselves."""

import copy
import re
import subprocess
from pathlib import Path

import pytest

from reelray.cluster.serve_app.app import END_S
from tests.support import crd_schema
from tests.support.manifests import (
    FILES,
    ROOT,
    cluster_of,
    config_map,
    container_of,
    groups_of,
    load,
    load_all,
    pod_of,
)

KINDS = tuple(FILES)
GRACE_S = 30
TIDY_S = 10
"""Of Ray, once the preStop hook has returned."""


@pytest.mark.parametrize("kind", KINDS)
def test_kuberay_takes_the_manifest(kind):
    assert crd_schema.faults(load(kind)) == []


def misspell_field(service):
    probe = container_of(groups_of(service)["gateways"])
    probe["readinesProbe"] = probe.pop("readinessProbe")


def misspell_top(service):
    service["spec"]["serveConfigV3"] = service["spec"].pop("serveConfigV2")


def number_as_text(service):
    groups_of(service)["engines"]["replicas"] = "1"


def start_parameter_as_number(service):
    groups_of(service)["head"]["rayStartParams"]["num-cpus"] = 0


def bad_quantity(service):
    container_of(groups_of(service)["engines"])["resources"]["limits"]["memory"] = "64 gigabytes"


def unknown_mode(service):
    cluster_of(service)["authOptions"]["mode"] = "tokens"


def without_containers(service):
    del pod_of(groups_of(service)["head"])["containers"]


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (misspell_field, "readinesProbe"),
        (misspell_top, "serveConfigV3"),
        (number_as_text, r"workerGroupSpecs.1.replicas: '1' is not of type 'integer'"),
        (start_parameter_as_number, r"rayStartParams.num-cpus: 0 is not of type 'string'"),
        (bad_quantity, "64 gigabytes"),
        (unknown_mode, "'tokens' is not one of"),
        (without_containers, "'containers' is a required property"),
    ],
)
def test_a_spoilt_manifest_is_seen(spoil, where):
    spoilt = copy.deepcopy(load("RayService"))
    spoil(spoilt)
    found = crd_schema.faults(spoilt)
    assert len(found) == 1
    assert re.search(where, found[0]), found


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_operator_checks_in_code(kind):
    resource = load(kind)
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert cluster_of(resource)["rayVersion"] == pinned[1]
    assert resource["spec"].get("upgradeStrategy", {}).get("type", "NewCluster") in {"NewCluster", "None"}
    for name, group in groups_of(resource).items():
        if name != "head":
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    if kind == "RayService":
        ports = [port["name"] for port in container_of(groups_of(resource)["head"])["ports"]]
        assert any(name == "serve" or name.startswith("serve-") for name in ports)


@pytest.mark.parametrize("kind", KINDS)
def test_no_pod_has_rights_that_it_does_not_need(kind):
    for group in groups_of(load(kind)).values():
        pod = pod_of(group)
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 1000
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "/" not in container["image"]
            assert re.fullmatch(r"[a-z-]+:\d+\.\d+\.\d+", container["image"])


@pytest.mark.parametrize("kind", KINDS)
def test_pods_with_replicas_end_no_sooner_than_their_videos(kind):
    for name, group in groups_of(load(kind)).items():
        if name == "head":
            continue
        command = container_of(group)["lifecycle"]["preStop"]["exec"]["command"]
        assert command[:3] == ["python", "-m", "reelray.cluster.serve_app.leave"]
        within_s = int(command[command.index("--within") + 1])
        assert within_s > GRACE_S + END_S
        assert pod_of(group)["terminationGracePeriodSeconds"] >= within_s + TIDY_S


def test_an_old_cluster_stays_until_its_videos_have_ended():
    assert load("RayService")["spec"]["rayClusterDeletionDelaySeconds"] > GRACE_S + END_S


@pytest.mark.parametrize("kind", KINDS)
def test_workers_of_a_service_are_ready_without_the_proxy_of_serve(kind):
    groups = groups_of(load(kind))
    assert container_of(groups["engines"])["readinessProbe"]["httpGet"] == {"path": "/api/healthz", "port": 52365}
    if kind == "RayService":
        assert container_of(groups["gateways"])["readinessProbe"]["grpc"] == {"port": 50051}


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_have_shared_memory_of_a_known_size(kind):
    group = groups_of(load(kind))["engines"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container_of(group)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_of(group)["volumes"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_mount_has_its_volume_and_no_secret_is_written_down(kind):
    for group in groups_of(load(kind)).values():
        volumes = {volume["name"] for volume in pod_of(group).get("volumes", [])}
        assert {mount["name"] for mount in container_of(group).get("volumeMounts", [])} == volumes
        for variable in container_of(group).get("env", []):
            assert "TOKEN" not in variable["name"]
            assert "://" not in variable.get("value", "")  # such an address may hold a password
    assert not any(resource["kind"] == "Secret" for resource in load_all(kind))


def test_callers_reach_gateways_and_nobody_else():
    others = {resource["kind"]: resource for resource in load_all("RayService")}
    groups = groups_of(load("RayService"))
    labels = {name: group["template"].get("metadata", {}).get("labels") for name, group in groups.items()}
    service, budget = others["Service"]["spec"], others["PodDisruptionBudget"]["spec"]
    assert set(service) == {"selector", "ports"}
    for selector in (service["selector"], budget["selector"]["matchLabels"]):
        assert [name for name, label in labels.items() if label == selector] == ["gateways"]
    assert service["ports"] == [
        {"name": "grpc", "port": 50051, "targetPort": "grpc", "appProtocol": "kubernetes.io/h2c"},
        {"name": "http", "port": 8000, "targetPort": "http", "appProtocol": "http"},
    ]
    ports = container_of(groups["gateways"])["ports"]
    assert ports == [{"containerPort": 50051, "name": "grpc"}, {"containerPort": 8000, "name": "http"}]
    assert set(budget) == {"minAvailable", "selector"}
    assert budget["minAvailable"] < groups["gateways"]["replicas"]


def test_the_script_of_the_job_makes_what_is_missing_and_stops_at_a_failure(tmp_path):
    data = config_map("RayJob")
    (tmp_path / "prompts.txt").write_text(data["prompts.txt"] + "boom\nnever\n")
    (tmp_path / "render.sh").write_text(
        data["render.sh"].replace("/etc/reelray", str(tmp_path)).replace("/results", str(tmp_path))
    )
    fake = tmp_path / "bin" / "reelray"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\n[ "$2" = boom ] && exit 6\necho "$@" >> calls\nfor file; do :; done\n: > "$file"\n')
    fake.chmod(0o755)
    (tmp_path / "1.mp4").touch()
    path = f"{fake.parent}:/usr/bin:/bin"
    done = subprocess.run(["sh", "render.sh", "here:1"], cwd=tmp_path, env={"PATH": path}, check=False)
    assert done.returncode == 1
    told = f"render a cat on a beach --server here:1 --seed 2 --output {tmp_path}/2.mp4\n"
    assert Path(tmp_path / "calls").read_text() == told
