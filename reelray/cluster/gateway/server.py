"""One gRPC server on one address."""

from dataclasses import dataclass, field
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from reelray.cluster.assets.room import AssetRoom
from reelray.cluster.assets.sources import Sources
from reelray.cluster.coordinator.desk import Desk
from reelray.cluster.coordinator.local_line import coordinate_alone
from reelray.cluster.gateway.archive import Archive
from reelray.cluster.gateway.assets_service import Assets
from reelray.cluster.gateway.callers import Callers
from reelray.cluster.gateway.live_quotas import LiveQuotas
from reelray.cluster.gateway.message_guard import MessageGuard
from reelray.cluster.gateway.renders_service import Renders
from reelray.cluster.gateway.served_models import ServedModels
from reelray.cluster.gateway.services import Cluster, Videos
from reelray.cluster.gateway.tenant_quotas import TenantQuotas
from reelray.cluster.gateway.token_guard import TokenGuard
from reelray.cluster.outbound.allow_list import AllowList
from reelray.cluster.wire import KEEPALIVE, LARGEST_MESSAGE
from reelray.proto.errors import ResourceError
from reelray.proto.v1 import (
    assets_pb2,
    assets_pb2_grpc,
    cluster_pb2,
    cluster_pb2_grpc,
    renders_pb2,
    renders_pb2_grpc,
    videos_pb2,
    videos_pb2_grpc,
)

SERVICES = (
    videos_pb2.DESCRIPTOR.services_by_name["Videos"].full_name,
    cluster_pb2.DESCRIPTOR.services_by_name["Cluster"].full_name,
)
KEPT = (
    renders_pb2.DESCRIPTOR.services_by_name["Renders"].full_name,
    assets_pb2.DESCRIPTOR.services_by_name["Assets"].full_name,
)
"""Those of a server that keeps something."""
MOST_CALLS = 4000
"""At a time; further ones are RESOURCE_EXHAUSTED at once."""
LAST_WORD_S = 1.0
"""Before everything is cut off, in which sessions end with a word."""
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    ("grpc.max_send_message_length", LARGEST_MESSAGE),
    *KEEPALIVE,
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """What stands between the network and the services.

    Args:
        callers: Who may come in.
        credentials: Certificate and key; None sends everything in the clear.
        quotas: Of tenants; without an archive there are none.
    """

    callers: Callers = field(default_factory=Callers)
    credentials: grpc.ServerCredentials | None = None
    quotas: TenantQuotas = field(default_factory=TenantQuotas)


class GatewayServer:
    """Answers from `start` until `stop`.

    Args:
        models: What is served; the caller closes it.
        address: Such as ``127.0.0.1:50051``; port 0 takes a free one.
        guard: Who may come in.
        archive: Where renders and assets are kept, of the same event loop; without one there are no such services.
        desk: Gives places on engines; without one the server decides for its own engines alone.
        shares_port: Whether others of the same user may listen on the same address, each to be given some of the calls.
    """

    def __init__(
        self,
        models: ServedModels,
        address: str,
        guard: Guard | None = None,
        archive: Archive | None = None,
        *,
        desk: Desk | None = None,
        shares_port: bool = False,
    ) -> None:
        guard = guard or Guard()
        desk = desk or coordinate_alone(models)
        self._address = address
        self._health = health.aio.HealthServicer()
        guards = (*((TokenGuard(guard.callers),) if guard.callers.are_known else ()), MessageGuard())
        options = (*OPTIONS, ("grpc.so_reuseport", int(shares_port)))
        self._server: Any = grpc.aio.server(options=options, interceptors=guards, maximum_concurrent_rpcs=MOST_CALLS)
        self._credentials = guard.credentials
        self.room = room = None if archive is None else AssetRoom(archive)
        """Whoever else takes uploads in in this process does so there, so that they count together."""
        sources = Sources(room, AllowList() if archive is None else archive.reach.urls)
        self._live = LiveQuotas(guard.quotas, None if archive is None else archive.store.calls)
        videos = Videos(models, guard.callers, sources, desk, live=self._live)
        self._conversations = videos.conversations
        videos_pb2_grpc.add_VideosServicer_to_server(videos, self._server)  # type: ignore[no-untyped-call]
        cluster_pb2_grpc.add_ClusterServicer_to_server(Cluster(models, desk), self._server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._services = SERVICES if archive is None else (*SERVICES, *KEPT)
        if archive is not None and room is not None:
            renders = Renders(models, archive, guard.callers, sources, desk=desk, quotas=guard.quotas)
            renders_pb2_grpc.add_RendersServicer_to_server(renders, self._server)  # type: ignore[no-untyped-call]
            assets = Assets(room, guard.callers)
            assets_pb2_grpc.add_AssetsServicer_to_server(assets, self._server)  # type: ignore[no-untyped-call]
        reflection.enable_server_reflection(
            (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self.port = 0
        self.is_serving = False

    async def start(self) -> Self:
        """Listen and say that all is well.

        Raises:
            ResourceError: The address is taken, or not of this machine.
        """
        try:
            if self._credentials is None:
                self.port = self._server.add_insecure_port(self._address)
            else:
                self.port = self._server.add_secure_port(self._address, self._credentials)
        except RuntimeError:
            raise ResourceError(
                f"cannot listen on {self._address}: it is in use, or no address of this machine; choose another"
            ) from None
        await self._server.start()
        for name in ("", *self._services):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self.is_serving = True
        return self

    async def stop(self, grace_s: float) -> None:
        """Take nothing new, wait for what runs, and end what is left after `grace_s`."""
        self.is_serving, self._live.is_ending = False, True
        await self._health.enter_graceful_shutdown()
        self._conversations.end(max(0.0, grace_s - LAST_WORD_S))
        await self._server.stop(grace_s)
        self._conversations.close()
        await self._live.close()
