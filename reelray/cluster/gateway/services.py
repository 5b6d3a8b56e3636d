"""The services of `reelray.v1` over the models of one server."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import reelray
from reelray.cluster.gateway.event_pump import EventPump
from reelray.cluster.gateway.making import Making
from reelray.cluster.gateway.served_models import ServedModel, ServedModels
from reelray.cluster.gateway.statuses import status_of
from reelray.cluster.gateway.video_answers import planned as plan_of
from reelray.cluster.gateway.video_reading import read_video
from reelray.cluster.render import plan_job
from reelray.proto.errors import EngineError, ReelrayError, ResourceError
from reelray.proto.v1 import cluster_pb2, cluster_pb2_grpc, videos_pb2, videos_pb2_grpc

LOG = logging.getLogger("reelray.gateway")
INTERNAL = "an unexpected error; the server's log says more"
Answer = TypeVar("Answer")
Context: TypeAlias = Any
"""`grpc.aio.ServicerContext`, which has no types."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A request that fits.

    Args:
        model: What makes it.
        making: Its video.
        first: What the client is told at first.
    """

    model: ServedModel
    making: Making
    first: videos_pb2.GenerateEvent


class Videos(videos_pb2_grpc.VideosServicer):
    """Makes videos while the client waits.

    Args:
        models: What is served.
    """

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    async def Generate(  # noqa: N802  named by the service
        self, request: videos_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[videos_pb2.GenerateEvent]:
        """See `videos.proto`."""
        planned = await _or_status(context, lambda: asyncio.to_thread(self._plan, request))
        model, making, name = planned.model, planned.making, planned.first.accepted.request_id
        with model.counted():
            yield planned.first
            pump = EventPump(making, leave=making.leave, name=name)
            async with aclosing(pump.items()) as events:
                while (event := await _or_status(context, lambda: anext(events, None), model, name)) is not None:
                    yield event

    def _plan(self, request: videos_pb2.GenerateRequest) -> "Planned":
        model = self._models.find(request.video.model)
        job = plan_job(read_video(request.video, model.entry), model.entry)
        plan = plan_of(job, model.description.digest)
        first = videos_pb2.GenerateEvent(accepted={"request_id": job.request.request_id, "plan": plan})
        return Planned(model=model, making=Making(model.engine, job, request.media), first=first)


class Cluster(cluster_pb2_grpc.ClusterServicer):
    """Tells what is here.

    Args:
        models: What is served.
    """

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    async def Describe(  # noqa: N802  named by the service
        self, _request: cluster_pb2.DescribeRequest, _context: Context
    ) -> cluster_pb2.DescribeResponse:
        """See `cluster.proto`."""
        return cluster_pb2.DescribeResponse(
            version=reelray.__version__, engines=[self._describe(model) for model in self._models]
        )

    def _describe(self, model: ServedModel) -> cluster_pb2.Engine:
        engine = model.description
        return cluster_pb2.Engine(
            model=model.entry.name,
            model_digest=engine.digest,
            device=engine.device,
            dtype=engine.dtype,
            layout=str(engine.layout),
            ranks=engine.layout.ranks + engine.decode_ranks,
            requests=model.running,
            ready=model.is_ready,
        )


async def _or_status(
    context: Context, work: Callable[[], Awaitable[Answer]], model: ServedModel | None = None, request_id: str = ""
) -> Answer:
    """Await something; what it raises ends the call with a status, and a look at the model's engine."""
    ids = {"request": request_id} if request_id else {}
    try:
        return await work()
    except ReelrayError as error:
        error.ids = {**ids, **error.ids}
        if model is not None and isinstance(error, EngineError | ResourceError):
            threading.Thread(target=model.look_after, name=f"look after {model.entry.name}", daemon=True).start()
        await context.abort_with_status(status_of(error))
    except Exception:
        LOG.exception("call %s failed unexpectedly", request_id)
        await context.abort_with_status(status_of(ReelrayError(INTERNAL, ids=ids)))
    raise AssertionError("abort raises")
