"""What `reelray serve --check` prints: what would be started, without starting it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from reelray.cluster.engine_groups.opening import PlannedGroup
from reelray.cluster.gateway.reach import read_reach
from reelray.cluster.gateway.serving import ServeOptions, data_folder, make_guard, plan_models
from reelray.cluster.services import Services


def print_check(options: ServeOptions, services: Services, tell: Callable[[str], None], *, as_json: bool) -> None:
    """Find out what would be started, and print it.

    Raises:
        ReelrayError: It cannot be started so.
    """
    make_guard(options)
    read_reach(options.allow_urls, options.allow_webhooks, services.load_settings())
    planned, data = plan_models(options, services), str(data_folder(options, services))
    if as_json:
        tell(json.dumps(check_json(planned, options, data), indent=2))
        return
    for line in check_lines(planned, options, data):
        tell(line)


def check_json(planned: Sequence[PlannedGroup], options: ServeOptions, data: str) -> dict[str, object]:
    """JSON-ready.

    Args:
        planned: The engines, the default model's first.
        options: The rest.
        data: Folder of what outlives a server.
    """
    return {
        "models": [_group_json(group) for group in planned],
        "default": planned[0].entry.name,
        "grpc": options.address,
        "http_port": {None: "off", 0: "free"}.get(options.http_port, options.http_port),
        "tls": options.certificate is not None,
        "tokens": options.token is not None or options.tokens is not None,
        "data": data,
        "keep_days": options.keep.ttl_s / 86_400,
        "keep_bytes": options.keep.most_bytes,
        "grace_s": options.grace_s,
        "assets": asdict(options.assets),
        "quotas": asdict(options.quotas),
    }


def _group_json(group: PlannedGroup) -> dict[str, object]:
    target, placement = group.target, group.target.placement
    return {
        "model": group.entry.name,
        "path": str(group.entry.path),
        "count": group.options.count,
        "engine": target.engine,
        "device": target.device,
        "layout": str(placement.layout),
        "ranks": placement.ranks,
        "decode_ranks": placement.decode_ranks,
        "weights": str(target.residency.blocks),
        "encoder": str(target.residency.encoder),
        "preload": group.options.preload,
        "idle_s": None if group.options.preload else group.options.idle_s,
    }


def check_lines(planned: Sequence[PlannedGroup], options: ServeOptions, data: str) -> list[str]:
    """The same as text."""
    facts = check_json(planned, options, data)
    guard = " and ".join([*(["TLS"] if facts["tls"] else []), *(["tokens"] if facts["tokens"] else [])])
    host = options.address.rpartition(":")[0]
    http = "no HTTP" if options.http_port is None else f"HTTP at {host}:{facts['http_port']}"
    size = "any" if options.keep.most_bytes is None else f"{options.keep.most_bytes / 1e9:g} GB of"
    return [
        *(_group_line(group) for group in planned),
        f"requests that name no model: {facts['default']}",
        f"gRPC at {options.address}, {http}, {guard or 'open to this machine'}",
        f"renders in {data}, kept for {facts['keep_days']:g} days, {size} ended ones of each tenant",
    ]


def _group_line(group: PlannedGroup) -> str:
    target, options = group.target, group.options
    engines = "1 engine" if options.count == 1 else f"{options.count} engines"
    ranks = target.placement.ranks
    place = f"{target.device}" if ranks == 1 else f"{ranks} ranks on {target.device} ({target.placement.layout})"
    when = "loaded at the start" if options.preload else f"loaded when asked for, put away after {options.idle_s:g} s"
    return f"{group.entry.name}: {engines} ({target.engine}), {place}, {when}"
