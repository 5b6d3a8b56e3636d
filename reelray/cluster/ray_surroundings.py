"""What surrounds the start of an embedded Ray: variables, patches, and silence, each for the time of a `with` block.

Ray is told what to do partly through environment variables. They are set around `ray.init` and put back, which makes
this file the one place besides `settings.py` that touches the environment. Each has a reason:

- `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0`: every listener binds 127.0.0.1 instead of all interfaces.
- `RAY_AUTH_MODE=token` with `RAY_AUTH_TOKEN`: other users of the machine cannot use the loopback ports, and Ray has no
  reason to write a token under the home directory.
- `RAY_USAGE_STATS_ENABLED=0`: nothing is reported to anybody.
- `RAY_ENABLE_UV_RUN_RUNTIME_ENV=0`: under `uv run`, workers would otherwise be started through uv again.
- `RAY_enable_worker_prestart=1` with `RAY_preload_python_modules`: the worker imports the slow modules while Ray is
  still starting.
- `RAY_ADDRESS` is taken away: a cluster that happens to be configured is not ours to join.
"""

import contextlib
import importlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def ray_environment(token: str, preload: Sequence[str]) -> Iterator[None]:
    """Hold the variables that Ray is to see, and put everything back that changed, Ray's own settings included.

    Args:
        token: Secret of the cluster.
        preload: Modules that workers import while the cluster starts.
    """
    before = dict(os.environ)
    for name, value in _variables(token, preload).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


def reread_environment() -> None:
    """Make Ray forget what it read of the environment when it was imported, an older token included."""
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def loopback_only() -> Iterator[None]:
    """Hold Ray to loopback even where somebody imported it before the variable was set."""
    constants: Any = importlib.import_module("ray._private.ray_constants")
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def few_processes() -> Iterator[None]:
    """Leave out the autoscaler, the log forwarder and the dashboard's head, which serve a cluster of several nodes.

    No option of `ray.init` does that. It saves three processes, 160 MB and two seconds on two cores. Where another
    version of Ray names these steps differently they simply run.
    """
    node = importlib.import_module("ray._private.node").Node
    names = [name for name in ("start_monitor", "start_log_monitor", "start_api_server") if hasattr(node, name)]
    before = {name: getattr(node, name) for name in names}
    for name in names:
        setattr(node, name, _skip)
    try:
        yield
    finally:
        for name, step in before.items():
            setattr(node, name, step)


def _skip(*_arguments: object, **_options: object) -> None:
    return None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Ray announces itself through its logger before it reads `logging_level`, and prints long warnings of its workers.

    The latter go to standard output, where a summary is due, whenever a process dies; what matters of them comes back
    as an error of the call or of the rank.
    """
    logger, worker = logging.getLogger("ray"), importlib.import_module("ray._private.worker")
    level, listen = logger.level, getattr(worker, "listen_error_messages", _skip)
    logger.setLevel(logging.ERROR)
    worker.listen_error_messages = _skip  # type: ignore[attr-defined]
    try:
        yield
    finally:
        logger.setLevel(level)
        worker.listen_error_messages = listen  # type: ignore[attr-defined]


def _variables(token: str, preload: Sequence[str]) -> dict[str, str | None]:
    return {
        "RAY_ADDRESS": None,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_enable_worker_prestart": "1",
        "RAY_preload_python_modules": ",".join(preload) or None,
    }
