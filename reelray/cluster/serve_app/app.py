"""Builds the application; Serve imports `reelray.cluster.serve_app.app:build`."""

from typing import Any

from ray import serve

from reelray.cluster.serve_app.arguments import AppArguments, ModelArguments
from reelray.cluster.serve_app.engine_replica import EngineReplica
from reelray.cluster.serve_app.gateway_replica import GatewayReplica

GATEWAY = "gateway"
END_S = 15.0
"""For closing engines and last words, after `grace_s`."""
SURGE = {False: 0, True: 100}
"""Percent of replicas that may be added while they are replaced; Serve waits for ever where there is no room."""
HEALTH_PERIOD_S = 2.0
HEALTH_TIMEOUT_S = 15.0


def build(arguments: AppArguments) -> serve.Application:
    """Gateways in front of one engine for each model; nothing is loaded here.

    Args:
        arguments: Serve reads them from the `args` of the application.
    """
    watch = {
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "graceful_shutdown_timeout_s": arguments.grace_s + END_S,
        "graceful_shutdown_wait_loop_s": 0.1,
    }
    engines = [_engine(model, arguments.grace_s, watch) for model in arguments.models]
    gateway = arguments.gateway
    deployment = serve.deployment(GatewayReplica).options(
        name=GATEWAY,
        num_replicas=gateway.replicas,
        max_surge_percent=SURGE[gateway.spare],
        ray_actor_options={"num_cpus": gateway.cpus, "resources": gateway.resources},
        **watch,
    )
    return deployment.bind(gateway, arguments.grace_s, engines)


def engine_name(model: ModelArguments) -> str:
    """Name of the deployment of a model's engine."""
    return f"engine-{model.name}"


def _engine(model: ModelArguments, grace_s: float, watch: dict[str, Any]) -> serve.Application:
    deployment = serve.deployment(EngineReplica).options(
        name=engine_name(model),
        num_replicas=1,
        max_surge_percent=SURGE[model.spare],
        ray_actor_options={"num_cpus": 0},
        placement_group_bundles=model.bundles,
        placement_group_strategy="STRICT_PACK",
        **watch,
    )
    return deployment.bind(model, grace_s)
