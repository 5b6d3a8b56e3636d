"""`python -m reelray.cluster.serve_app.leave --within S`: what a machine does before it leaves the cluster."""

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import psutil
import ray
from ray.core.generated import autoscaler_pb2

REPLICA = "ray::ServeReplica:"
LOOK_S = 0.5


def leave(within_s: float, processes: Callable[[], Iterable[psutil.Process]] = psutil.process_iter) -> bool:
    """Drain the connected node.

    Nothing new is placed here, Serve starts replacements elsewhere, and then ends the replicas of this machine in good
    order. Where there is no room for a replacement it ends a replica so early that it can end well.

    Args:
        within_s: How long that may take.
        processes: Those of this machine.

    Returns:
        Whether all replicas of this machine have ended.
    """
    deadline_s = time.monotonic() + within_s
    _tell_ray(within_s)
    while any(map(_is_replica, processes())):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(LOOK_S)
    return True


def _tell_ray(within_s: float) -> None:
    """Ray has no public function for it: `ray drain-node` is hidden, and does this."""
    context, raylet = ray.get_runtime_context(), importlib.import_module("ray._raylet")
    client: Any = raylet.GcsClient(address=context.gcs_address)
    client.drain_node(
        context.get_node_id(),
        autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "the machine leaves",
        int((time.time() + within_s) * 1000),
    )


def _is_replica(process: psutil.Process) -> bool:
    try:
        return any(word.startswith(REPLICA) for word in process.cmdline()[:1])
    except psutil.Error:
        return False


def main() -> int:
    """Leave, and say whether it was in good order."""
    parser = argparse.ArgumentParser("python -m reelray.cluster.serve_app.leave", description="Drain this node.")
    parser.add_argument("--within", type=float, required=True, metavar="S", help="seconds that it may take")
    asked = parser.parse_args()
    ray.init(address="auto", log_to_driver=False)
    return 0 if leave(asked.within) else 1


if __name__ == "__main__":
    sys.exit(main())
