"""The application of the manifests: what Serve makes of its config, and whether the cluster has room for it."""

import importlib
import shlex

import pytest
import yaml
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve._private.build_app import build_app
from ray.serve.schema import ServeDeploySchema

from reelray.cluster.serve_app.app import build
from reelray.cluster.serve_app.arguments import AppArguments
from reelray.cluster.serve_app.beside import ADDRESS, read_arguments
from reelray.cluster.settings import variable_name
from tests.support.manifests import booked_resources, config_map, container_of, groups_of, load, pod_of


def serve_config():
    return yaml.safe_load(load("RayService")["spec"]["serveConfigV2"])


def unknown_keys(config):
    """Keys that Serve does not know: it takes and forgets them."""
    read = ServeDeploySchema.model_validate(config).model_dump(mode="json", exclude_unset=True)
    return list(_missing(config, read, ""))


def _missing(given, read, at):
    if isinstance(given, dict):
        for key, value in given.items():
            if key not in read:
                yield f"{at}{key}"
            else:
                yield from _missing(value, read[key], f"{at}{key}.")
    elif isinstance(given, list):
        for index, (mine, its) in enumerate(zip(given, read, strict=True)):
            yield from _missing(mine, its, f"{at}{index}.")


def built_as_serve_does(config):
    (application,) = config["applications"]
    module, _, name = application["import_path"].partition(":")
    builder = getattr(importlib.import_module(module), name)
    app = call_user_app_builder_with_args_if_necessary(builder, application["args"])
    return build_app(app, name=application["name"], make_deployment_handle=lambda deployment, _name: deployment.name)


def arguments_of(kind, tmp_path):
    if kind == "RayService":
        return AppArguments.model_validate(serve_config()["applications"][0]["args"])
    file = tmp_path / "app.yaml"
    file.write_text(config_map("RayJob")["app.yaml"])
    return read_arguments(file)


def test_serve_knows_every_key_and_its_proxies_are_off():
    config = serve_config()
    assert unknown_keys(config) == []
    assert config["proxy_location"] == "Disabled"
    assert config["applications"][0]["route_prefix"] is None


def test_a_misspelt_key_is_seen():
    config = serve_config()
    config["applications"][0]["import_pth"] = "x"
    config["http_option"] = {}
    assert unknown_keys(config) == ["applications.0.import_pth", "http_option"]


def test_serve_builds_the_application_of_the_manifest():
    built = built_as_serve_does(serve_config())
    gateway, engine = sorted(built.deployments, key=lambda deployment: deployment.name, reverse=True)
    assert built.ingress_deployment_name == gateway.name == "gateway"
    assert gateway.num_replicas == 2
    assert gateway.ray_actor_options == {"num_cpus": 2.0, "resources": {"gateway": 1.0}}
    assert engine.name == "engine-wan2.1-t2v-1.3b"
    config = engine._replica_config
    assert config.placement_group_bundles == [{"CPU": 4.0}, {"GPU": 1.0}, {"GPU": 1.0}]
    assert config.placement_group_strategy == "STRICT_PACK"
    assert {deployment._deployment_config.graceful_shutdown_timeout_s for deployment in (gateway, engine)} == {45.0}


@pytest.mark.parametrize("key", ["token", "model", "grace"])
def test_an_argument_that_is_none_is_refused(key):
    config = serve_config()
    config["applications"][0]["args"][key] = "x"
    with pytest.raises(ValueError, match=f"{key}\n.*Extra inputs are not permitted"):
        built_as_serve_does(config)


@pytest.mark.parametrize("kind", ["RayService", "RayJob"])
def test_the_cluster_has_room_for_the_application(kind, tmp_path):
    arguments, groups = arguments_of(kind, tmp_path), groups_of(load(kind))
    place = groups["gateways" if kind == "RayService" else "head"]
    gateway = arguments.gateway
    assert gateway.resources == booked_resources(place) == {"gateway": 1}
    assert gateway.replicas <= place.get("replicas", 1)
    assert gateway.cpus <= float(
        place["rayStartParams"].get("num-cpus", container_of(place)["resources"]["requests"]["cpu"])
    )
    pods = groups["engines"]["replicas"]
    limits = container_of(groups["engines"])["resources"]["requests"]
    assert all(model.device == "cuda" for model in arguments.models)
    assert all(model.gpus <= int(limits["nvidia.com/gpu"]) for model in arguments.models)
    assert sum(model.gpus for model in arguments.models) <= pods * int(limits["nvidia.com/gpu"])
    assert sum(model.cpus for model in arguments.models) <= pods * int(limits["cpu"])
    assert all(not booked_resources(group) for name, group in groups.items() if group is not place and name)


def test_the_token_comes_from_a_mounted_secret():
    group = groups_of(load("RayService"))["gateways"]
    file = arguments_of("RayService", None).gateway.token_file
    assert volume_at(group, str(file.parent))["secret"]["secretName"] == "reelray-token"


def volume_at(group, path):
    (name,) = (mount["name"] for mount in container_of(group)["volumeMounts"] if mount["mountPath"] == path)
    return next(volume for volume in pod_of(group)["volumes"] if volume["name"] == name)


def test_gateways_listen_where_their_pods_say_and_share_files_and_store():
    group, gateway = groups_of(load("RayService"))["gateways"], arguments_of("RayService", None).gateway
    ports = {port["name"]: port["containerPort"] for port in container_of(group)["ports"]}
    assert ports == {"grpc": int(gateway.address.rpartition(":")[2]), "http": gateway.http_port}
    assert gateway.address.startswith("0.0.0.0:")
    assert volume_at(group, gateway.files)["persistentVolumeClaim"] == {"claimName": "reelray-renders"}
    (store,) = (one for one in container_of(group)["env"] if one["name"] == variable_name("redis_url"))
    assert store["valueFrom"]["secretKeyRef"] == {"name": "reelray-store", "key": "url"}


def test_only_the_job_itself_reaches_its_gateway(tmp_path):
    words = shlex.split(load("RayJob")["spec"]["entrypoint"])
    split = words.index("--")
    assert words[:3] == ["python", "-m", "reelray.cluster.serve_app"]
    assert words[3:split] == ["--config", "/etc/reelray/app.yaml"]
    assert words[split + 1 :] == ["sh", "/etc/reelray/render.sh", ADDRESS]
    assert arguments_of("RayJob", tmp_path).gateway.address.startswith("127.0.0.1:")
    mounts = {mount["mountPath"] for mount in container_of(groups_of(load("RayJob"))["head"])["volumeMounts"]}
    assert mounts == {"/etc/reelray", "/results"}
    assert set(config_map("RayJob")) == {"app.yaml", "prompts.txt", "render.sh"}


def test_a_build_loads_nothing_and_needs_no_cluster():
    import ray

    assert not ray.is_initialized()
    build(AppArguments.model_validate({"models": [{"model": "/nowhere/at-all"}]}))
    assert not ray.is_initialized()
