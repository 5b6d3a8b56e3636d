"""A file and the command line together: what was said on the command line counts."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reelray.cluster.engine_groups.options import GroupOptions
from reelray.cluster.gateway.serving import ServeOptions, read_http_port
from reelray.cluster.gateway.tenant_quotas import TenantQuotas
from reelray.cluster.render_plan import Place
from reelray.cluster.renders.retention import RetentionRule
from reelray.cluster.serve_config.file import ServeConfig, read_config
from reelray.cluster.serve_config.keeping import asset_rule

PLACE = ("device", "engine", "gpus", "layout", "decode_ranks", "weights", "encoder")
ASSETS = ("asset_days", "asset_gb", "asset_mb", "asset_count", "asset_uploads")
PATHS = ("data", "tokens", "tls_cert", "tls_key")


def merge_options(said: Mapping[str, Any], given: Collection[str], file: Path | None) -> ServeOptions:
    """What a server is to do.

    Args:
        said: Every option of the command by its name, defaults included.
        given: Names of those that were not left to their defaults.
        file: Says the rest; None where there is none.

    Raises:
        InputError: The file cannot be read, or a value is wrong.
    """
    config = None if file is None else read_config(file)
    folder = Path() if file is None else file.absolute().parent
    all_said = dict(said) if config is None else {**said, **_of_config(config, folder, given)}
    place = {name: said[name] for name in PLACE if said[name] is not None}
    groups = [] if config is None else [group.options(folder) for group in config.ordered]
    return ServeOptions(
        groups=[replace(group, place=replace(group.place, **place)) for group in _choose(groups, said["model"] or ())],
        place=Place(**place),
        address=all_said["address"],
        http_port=read_http_port(str(all_said["http_port"])),
        token=said["token"],
        tokens=all_said["tokens"],
        certificate=all_said["tls_cert"],
        key=all_said["tls_key"],
        data=all_said["data"],
        keep=RetentionRule.of(days=all_said["keep_days"], gigabytes=all_said["keep_gb"]),
        grace_s=all_said["grace"],
        allow_urls=all_said["allow_url"] or (),
        allow_webhooks=all_said["allow_webhook"] or (),
        assets=asset_rule(all_said),
        quotas=TenantQuotas() if config is None else config.quotas.quotas(),
    )


def _of_config(config: ServeConfig, folder: Path, given: Collection[str]) -> dict[str, Any]:
    facts = {name: getattr(config, name) for name in ("address", "http_port", "keep_days", "keep_gb", *PATHS, *ASSETS)}
    facts |= {name: folder / facts[name].expanduser() for name in PATHS if facts[name] is not None}
    facts |= {"grace": config.grace_s, "allow_url": config.allow_urls, "allow_webhook": config.allow_webhooks}
    return {name: value for name, value in facts.items() if name not in given}


def _choose(groups: Sequence[GroupOptions], models: Sequence[str]) -> list[GroupOptions]:
    """The groups of the file, or those that the command line names, with the file's words on them."""
    if not models:
        return list(groups)
    known = {name: group for group in groups for name in (group.model, Path(group.model).name)}
    return [known.get(model, GroupOptions(model=model)) for model in models]
