"""One embedded Ray for the engines of a server, where there are several."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reelray.cluster.gpu_count import runs_on_gpus
from reelray.cluster.services import EngineKind, Services, plan_loading

if TYPE_CHECKING:
    from reelray.cluster.engine_api import Engine
    from reelray.cluster.model_catalog import ModelEntry
    from reelray.cluster.render_plan import Target
    from reelray.proto.placement import Placement
    from reelray.proto.residency import Residency


def share_ray(services: Services, targets: "list[Target]", opened: ExitStack) -> Services:
    """Services whose engines under Ray lie in one cluster.

    Args:
        services: Those of one cluster for each.
        targets: All engines that there may be at once.
        opened: Ends the cluster.

    Raises:
        EngineError: Ray does not start.
    """
    from reelray.cluster.embedded_ray import EmbeddedRay  # noqa: PLC0415  pulls in ray

    gpus = sum(target.placement.ranks for target in targets if runs_on_gpus(target.device))
    cpus = sum(1 if target.placement.ranks == 1 else 1 + target.placement.ranks for target in targets)
    opened.enter_context(EmbeddedRay(gpus=gpus, cpus=cpus, preload=("torch",)))
    return replace(services, open_engine=_InSharedRay(services).open_engine)


@dataclass(frozen=True, slots=True)
class _InSharedRay:
    services: Services

    def open_engine(
        self, kind: EngineKind, model: "ModelEntry", device: str, placement: "Placement", residency: "Residency"
    ) -> "Engine":
        """See `Services`."""
        if kind != "ray":
            return self.services.open_engine(kind, model, device, placement, residency)
        from reelray.cluster.remote_engine import RemoteEngine  # noqa: PLC0415  pulls in ray

        loader, limits = plan_loading(model, device, placement, residency)
        return RemoteEngine(
            loader,
            limits=limits,
            gpus=placement.ranks if runs_on_gpus(device) else 0,
            layout=placement.layout,
            decode_ranks=placement.decode_ranks,
            lending=placement.lending,
        )
